//! What can be wrong with manifests: one variant for each rule, and where it was broken. Renders nothing.

use std::borrow::Cow;

use serde::Serialize;

use super::source::{Source, Span};

/// Whether a JSON Schema, which sees one document at a time, can find a problem too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaSees {
    /// It does.
    Always,
    /// It does for some values: a form is checked there more loosely.
    Sometimes,
    /// It can't: the rule speaks of YAML itself, of several documents, or of what is not built.
    Never,
}

macro_rules! problems {
    ($($(#[$meta:meta])* $name:ident: $sees:ident),+ $(,)?) => {
        /// The rule that was broken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum ProblemKind { $($(#[$meta])* $name),+ }

        impl ProblemKind {
            /// Every rule.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Whether a JSON Schema finds it too.
            #[must_use]
            pub fn schema_sees(self) -> SchemaSees {
                match self { $(Self::$name => SchemaSees::$sees),+ }
            }
        }
    };
}

problems! {
    // the file
    /// A file is at most `FILE_BYTES_MAX`.
    FileTooLarge: Never,
    /// There are at most `FILES_MAX` files.
    TooManyFiles: Never,
    /// A file is UTF-8.
    NotUtf8: Never,
    /// A file has at most `DOCUMENTS_MAX` documents.
    TooManyDocuments: Never,
    /// Values lie at most `DEPTH_MAX` deep.
    TooDeep: Never,
    /// A document has at most `NODES_MAX` values, aliases counted as what they stand for.
    TooManyValues: Never,
    /// YAML is indented with spaces.
    TabIndentation: Never,
    /// A file is YAML.
    Syntax: Never,
    /// An alias has its anchor before it.
    UnknownAnchor: Never,
    /// Tags such as `!include` are not read.
    Tag: Never,
    /// A key is given once.
    DuplicateKey: Never,
    // the document
    /// A document is a mapping.
    NotADocument: Always,
    /// `apiVersion` is ours.
    WrongApiVersion: Always,
    /// A kind is one of the known.
    UnknownKind: Always,
    /// What the design has and this version does not.
    NotYet: Sometimes,
    /// `status` is never in Git.
    StatusInGit: Always,
    // fields
    /// A field is one of the known.
    UnknownField: Always,
    /// A needed field is there.
    MissingField: Always,
    /// A field that is there has a value.
    NoValue: Always,
    /// A value has its field's type.
    WrongType: Always,
    /// A word is one of the field's.
    UnknownWord: Sometimes,
    /// A number or a duration is within its bounds.
    OutOfRange: Sometimes,
    /// A list has no value twice.
    DuplicateItem: Never,
    /// Exactly one of some fields is given.
    NotExactlyOne: Always,
    /// Fields that exclude or need each other.
    Conflict: Never,
    // forms
    /// A name is a DNS label.
    BadName: Always,
    /// Labels are short words.
    BadLabel: Never,
    /// Durations are `90s`, `5m`, `2h`.
    BadDuration: Always,
    /// A reboot window is hours of days.
    BadWindow: Sometimes,
    /// An address is an IP address or a host name.
    BadAddress: Sometimes,
    /// A host key is `TYPE BASE64`.
    BadHostKey: Sometimes,
    /// A jump host is `[user@]host[:port]`.
    BadJump: Sometimes,
    /// A selector is terms joined by commas.
    BadSelector: Sometimes,
    /// A system is such as `x86_64-linux`.
    BadSystem: Always,
    /// A user's name.
    BadUser: Always,
    /// A unit's name has its suffix.
    BadUnit: Sometimes,
    /// A flake attribute or a path within the repository.
    BadTarget: Sometimes,
    /// A URL has a scheme that the field takes.
    BadUrl: Sometimes,
    /// A feature of a builder is a word.
    BadFeature: Always,
    /// A path is absolute.
    BadPath: Sometimes,
    /// A command is a program and its arguments.
    BadCommand: Sometimes,
    /// A public key is one that its field takes.
    BadPublicKey: Sometimes,
    /// A file's mode is octal.
    BadMode: Sometimes,
    /// A user or group is a name or a number.
    BadOwner: Sometimes,
    /// A key within a file is `a/b/0`.
    BadKey: Sometimes,
    // documents against each other
    /// A name is given once to each kind.
    DuplicateName: Never,
    /// There is one `Fleet`.
    SecondFleet: Never,
    /// There is a `Fleet`.
    NoFleet: Never,
    /// A selector matches a host, unless `allowEmpty`.
    EmptySelector: Never,
    /// A host that is named exists.
    UnknownHost: Never,
    /// A check that is named exists.
    UnknownCheck: Never,
    /// Hosts don't wait for each other in a circle.
    DependencyCycle: Never,
    /// Each host has a system, its own or the fleet's.
    NoSystem: Never,
    // secrets
    /// No two files of a host have one place.
    PathCollision: Never,
    /// A secret that a template names exists, for all of its hosts.
    UnknownSecret: Never,
    /// A host that gets secrets has a key that opens them.
    NoHostKey: Never,
    /// Secrets for users need the NixOS module on the host.
    NeedsModule: Never,
    /// The source is a file of the repository, tracked by Git.
    NoSource: Never,
    /// The source is encrypted, and reads as its format.
    NotEncrypted: Never,
    /// The key is in the file, and is a string.
    NoSuchKey: Never,
    /// Each host that gets a secret can open its file.
    NotARecipient: Never,
}

/// One thing that is wrong, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The rule.
    pub kind: ProblemKind,
    /// The file as it was named; empty when the problem has no one place.
    pub file: String,
    /// From 1; 0 when the problem is about the file as a whole.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// How many characters are meant.
    pub length: usize,
    /// The line before, when it says something.
    pub before: Option<String>,
    /// The line.
    pub excerpt: String,
    /// What is wrong, without a full stop.
    pub message: String,
    /// What to do; may be empty.
    pub help: String,
    /// What else is worth knowing; may be empty.
    pub note: String,
}

impl Problem {
    pub(super) fn new(
        kind: ProblemKind,
        source: &Source,
        span: Span,
        message: impl AsRef<str>,
    ) -> Self {
        Self {
            kind,
            file: source.path.clone(),
            line: span.line,
            column: span.column,
            length: span.length,
            before: source
                .line(span.line.saturating_sub(1))
                .filter(|l| !l.trim().is_empty())
                .map(|line| without_passwords(line).into_owned()),
            excerpt: without_passwords(source.line(span.line).unwrap_or_default()).into_owned(),
            message: printable(message.as_ref()),
            help: String::new(),
            note: String::new(),
        }
    }

    /// About a file as a whole, or about none.
    pub(super) fn of_file(kind: ProblemKind, file: &str, message: impl AsRef<str>) -> Self {
        Self {
            kind,
            file: file.to_owned(),
            line: 0,
            column: 0,
            length: 0,
            before: None,
            excerpt: String::new(),
            message: printable(message.as_ref()),
            help: String::new(),
            note: String::new(),
        }
    }

    pub(super) fn help(mut self, help: impl AsRef<str>) -> Self {
        self.help = printable(help.as_ref());
        self
    }

    pub(super) fn note(mut self, note: impl AsRef<str>) -> Self {
        self.note = printable(note.as_ref());
        self
    }
}

/// Text of a file never steers the terminal that shows it, and a password in a URL is not told again.
pub(super) fn printable(text: &str) -> String {
    without_passwords(text)
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// `https://user:password@host` with as many `*` as the password has characters, so that columns stay.
fn without_passwords(text: &str) -> Cow<'_, str> {
    let mut out = Cow::Borrowed(text);
    let mut from = 0;
    while let Some(at) = out[from..].find("://").map(|n| from + n + 3) {
        let end = out[at..]
            .find(|c: char| c == '/' || c == '"' || c.is_whitespace())
            .map_or(out.len(), |n| at + n);
        from = at;
        let Some(last) = out[at..end].rfind('@').map(|n| at + n) else {
            continue;
        };
        let Some(colon) = out[at..last].find(':').map(|n| at + n + 1) else {
            continue;
        };
        let stars = "*".repeat(out[colon..last].chars().count());
        out = Cow::Owned(format!("{}{stars}{}", &out[..colon], &out[last..]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_not_told_again() {
        let text = "url: \"https://ana:s3cr@t@chat.example.org/a:b@c\" and http://x.org:80/ and s3://k:pässe@b";
        let told = without_passwords(text);
        assert_eq!(
            told,
            "url: \"https://ana:******@chat.example.org/a:b@c\" and http://x.org:80/ and s3://k:*****@b"
        );
        assert_eq!(told.chars().count(), text.chars().count());
    }
}
