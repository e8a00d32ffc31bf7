//! Selectors: `role=web,env!=dev`. Which documents they match, and nothing about where they stand.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    Labels,
    value::{ValueError, string_form},
};

/// The most terms of one selector; more is a list of hosts by other means.
const TERMS_MAX: usize = 16;

/// Terms joined by `,`, all of which must hold: `role=web`, `env!=dev`, `gpu` (the label is there), `!gpu` (it is not).
/// `*` matches every host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    Is(String, String),
    IsNot(String, String),
    Has(String),
    HasNot(String),
}

impl Selector {
    /// Matches everything.
    #[must_use]
    pub fn all() -> Self {
        Self { terms: Vec::new() }
    }

    /// Whether these labels are meant.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.terms.iter().all(|term| match term {
            Term::Is(key, value) => labels.get(key) == Some(value),
            Term::IsNot(key, value) => labels.get(key) != Some(value),
            Term::Has(key) => labels.contains_key(key),
            Term::HasNot(key) => !labels.contains_key(key),
        })
    }

    /// The label keys that it looks at.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|term| match term {
            Term::Is(key, _) | Term::IsNot(key, _) | Term::Has(key) | Term::HasNot(key) => {
                key.as_str()
            }
        })
    }
}

impl FromStr for Selector {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.trim() == "*" {
            return Ok(Self::all());
        }
        let terms = text
            .split(',')
            .map(|part| term(part.trim()))
            .collect::<Result<Vec<_>, _>>()?;
        if terms.len() > TERMS_MAX {
            return Err(ValueError(format!(
                "a selector has at most {TERMS_MAX} terms"
            )));
        }
        Ok(Self { terms })
    }
}

fn term(text: &str) -> Result<Term, ValueError> {
    let wrong = || ValueError(format!("`{text}` is not a term of a selector"));
    let (key, make): (&str, Box<dyn FnOnce(String) -> Term>) =
        if let Some((key, value)) = text.split_once("!=") {
            let value = checked_value(value.trim()).ok_or_else(wrong)?;
            (key, Box::new(move |k| Term::IsNot(k, value)))
        } else if let Some((key, value)) = text.split_once('=') {
            let value = checked_value(value.trim().trim_start_matches('=')).ok_or_else(wrong)?;
            (key, Box::new(move |k| Term::Is(k, value)))
        } else if let Some(key) = text.strip_prefix('!') {
            (key, Box::new(Term::HasNot))
        } else {
            (text, Box::new(Term::Has))
        };
    let key = key.trim();
    if is_label_key(key) {
        Ok(make(key.to_owned()))
    } else {
        Err(wrong())
    }
}

fn checked_value(text: &str) -> Option<String> {
    is_label_value(text).then(|| text.to_owned())
}

/// A label's key: letters, digits, `-`, `_`, `.` and one `/`, at most 63; begins with a letter or digit.
pub(crate) fn is_label_key(text: &str) -> bool {
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    first && text.len() <= 63 && text.bytes().all(good) && text.matches('/').count() <= 1
}

/// A label's value: letters, digits, `-`, `_` and `.`, at most 63; may be empty.
pub(crate) fn is_label_value(text: &str) -> bool {
    text.len() <= 63
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("*");
        }
        for (n, term) in self.terms.iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            match term {
                Term::Is(key, value) => write!(f, "{key}={value}")?,
                Term::IsNot(key, value) => write!(f, "{key}!={value}")?,
                Term::Has(key) => f.write_str(key)?,
                Term::HasNot(key) => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

string_form!(
    Selector,
    "Terms joined by `,`, all of which must hold: `role=web`, `env!=dev`, `gpu`, `!gpu`; `*` is every host.",
    r"^[^,]+(,[^,]+)*$"
);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn all_terms_must_hold() {
        let web = labels(&[("role", "web"), ("env", "prod")]);
        for (text, want) in [
            ("role=web", true),
            ("role==web", true),
            ("role=web,env!=dev", true),
            ("role=web,env=dev", false),
            ("env", true),
            ("!env", false),
            ("!gpu", true),
            ("*", true),
            (" role = web , !gpu ", true),
        ] {
            assert_eq!(
                text.parse::<Selector>().unwrap().matches(&web),
                want,
                "{text}"
            );
        }
    }

    #[test]
    fn a_term_without_a_key_is_refused() {
        for text in [
            "",
            ",",
            "role=web,",
            "=web",
            "role=we b",
            "role in (a)",
            "!",
            "-x=1",
        ] {
            assert!(text.parse::<Selector>().is_err(), "{text}");
        }
    }
}
