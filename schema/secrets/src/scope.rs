//! Which values of a document are encrypted: the six rules of sops, evaluated for one path at a time.

use regex::Regex;

use crate::error::Error;

/// A pattern that compiles to more than this is an attack on memory, not a rule.
const REGEX_BYTES_MAX: usize = 1 << 20;
const DEFAULT_SUFFIX: &str = "_unencrypted";

/// The one rule a file may have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ScopeRule {
    /// Nothing is configured: everything but paths that end with `_unencrypted`.
    #[default]
    Default,
    UnencryptedSuffix(String),
    EncryptedSuffix(String),
    UnencryptedRegex(String),
    EncryptedRegex(String),
    UnencryptedCommentRegex(String),
    EncryptedCommentRegex(String),
}

/// Names of the rules in metadata and `.sops.yaml`.
pub(crate) const RULE_NAMES: [&str; 6] = [
    "unencrypted_suffix",
    "encrypted_suffix",
    "unencrypted_regex",
    "encrypted_regex",
    "unencrypted_comment_regex",
    "encrypted_comment_regex",
];

impl ScopeRule {
    /// From (name, text) pairs; empty texts count as absent, two rules are an error.
    pub(crate) fn from_fields<'a>(
        fields: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, String> {
        let mut rule = None;
        for (name, text) in fields.filter(|(_, text)| !text.is_empty()) {
            let text = text.to_owned();
            let next = match name {
                "unencrypted_suffix" => Self::UnencryptedSuffix(text),
                "encrypted_suffix" => Self::EncryptedSuffix(text),
                "unencrypted_regex" => Self::UnencryptedRegex(text),
                "encrypted_regex" => Self::EncryptedRegex(text),
                "unencrypted_comment_regex" => Self::UnencryptedCommentRegex(text),
                "encrypted_comment_regex" => Self::EncryptedCommentRegex(text),
                _ => continue,
            };
            if rule.replace(next).is_some() {
                return Err(format!("only one of {} may be set", RULE_NAMES.join(", ")));
            }
        }
        Ok(rule.unwrap_or_default())
    }

    /// The (name, text) to write.
    pub(crate) fn field(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Default => None,
            Self::UnencryptedSuffix(text) => Some((RULE_NAMES[0], text)),
            Self::EncryptedSuffix(text) => Some((RULE_NAMES[1], text)),
            Self::UnencryptedRegex(text) => Some((RULE_NAMES[2], text)),
            Self::EncryptedRegex(text) => Some((RULE_NAMES[3], text)),
            Self::UnencryptedCommentRegex(text) => Some((RULE_NAMES[4], text)),
            Self::EncryptedCommentRegex(text) => Some((RULE_NAMES[5], text)),
        }
    }
}

/// A rule made ready to be asked.
#[derive(Debug, Clone)]
pub struct Scope {
    rule: ScopeRule,
    regex: Option<Regex>,
}

impl Scope {
    pub fn new(rule: &ScopeRule) -> Result<Self, Error> {
        let pattern = match rule {
            ScopeRule::UnencryptedRegex(text)
            | ScopeRule::EncryptedRegex(text)
            | ScopeRule::UnencryptedCommentRegex(text)
            | ScopeRule::EncryptedCommentRegex(text) => Some(text),
            _ => None,
        };
        let regex = pattern
            .map(|text| compile(text))
            .transpose()
            .map_err(Error::metadata)?;
        Ok(Self {
            rule: rule.clone(),
            regex,
        })
    }

    /// Whether the leaf at `path` is encrypted. `before`: an active comment matches; `own`: the leaf is a comment that does.
    pub(crate) fn covers(&self, path: &[String], before: bool, own: bool) -> bool {
        let found = |text: &str| {
            self.regex
                .as_ref()
                .is_some_and(|regex| regex.is_match(text))
        };
        let ends = |suffix: &str| path.iter().any(|key| key.ends_with(suffix));
        match &self.rule {
            ScopeRule::Default => !ends(DEFAULT_SUFFIX),
            ScopeRule::UnencryptedSuffix(suffix) => !ends(suffix),
            ScopeRule::EncryptedSuffix(suffix) => ends(suffix),
            ScopeRule::UnencryptedRegex(_) => !path.iter().any(|key| found(key)),
            ScopeRule::EncryptedRegex(_) => path.iter().any(|key| found(key)),
            ScopeRule::UnencryptedCommentRegex(_) => !(before || own),
            // A comment never counts itself here, else it would be sealed and govern nothing any more.
            ScopeRule::EncryptedCommentRegex(_) => before,
        }
    }

    /// Whether a comment is one that the rule looks for.
    pub(crate) fn comment_matches(&self, text: &str) -> bool {
        let by_comment = matches!(
            self.rule,
            ScopeRule::UnencryptedCommentRegex(_) | ScopeRule::EncryptedCommentRegex(_)
        );
        by_comment
            && self
                .regex
                .as_ref()
                .is_some_and(|regex| regex.is_match(text))
    }

    /// Whether a sealed comment would switch encryption off when the file is read back.
    pub(crate) fn ciphertext_would_match(&self, sealed: &str) -> bool {
        matches!(self.rule, ScopeRule::UnencryptedCommentRegex(_))
            && self
                .regex
                .as_ref()
                .is_some_and(|regex| regex.is_match(sealed))
    }
}

/// A pattern with a bound on its size. The syntax is near enough to Go's.
pub(crate) fn compile(text: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(text)
        .size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|_| {
            format!(
                "`{}` is not a regular expression",
                text.chars().take(80).collect::<String>()
            )
        })
}
