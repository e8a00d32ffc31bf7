//! agenix and ragenix: plain age files, and the list of recipients in `secrets.nix`.
//!
//! `secrets.nix` is a Nix program. The subset people write (`let` names, strings, lists, `++`, attribute sets) is read
//! here; for anything else the caller evaluates it and gives [`Recipients::from_json`] the result.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::error::Error;
use crate::keys::{self, Identities, Recipient};
use crate::store;
use crate::value::{Item, Value, get};

/// Opens an age file, armored or binary. Unknown stanzas are skipped.
pub fn decrypt(file: &[u8], identities: &Identities) -> Result<Zeroizing<Vec<u8>>, Error> {
    identities
        .open(file)
        .map_err(|reason| Error::AgeFile { reason })
}

/// Seals bytes to all recipients of a file.
pub fn encrypt(plain: &[u8], entry: &Entry) -> Result<Vec<u8>, Error> {
    if entry.recipients.is_empty() {
        return Err(Error::AgeFile {
            reason: "it would have no recipients".into(),
        });
    }
    keys::seal(plain, &entry.recipients, entry.armor)
}

/// Opens and seals again: after the recipients changed.
pub fn rekey(file: &[u8], identities: &Identities, entry: &Entry) -> Result<Vec<u8>, Error> {
    encrypt(&decrypt(file, identities)?, entry)
}

/// What `secrets.nix` says of one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    pub recipients: Vec<Recipient>,
    pub armor: bool,
}

/// All of `secrets.nix`, by file name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recipients(pub BTreeMap<String, Entry>);

impl Recipients {
    /// Reads the usual subset of Nix.
    pub fn from_nix(text: &str) -> Result<Self, Error> {
        let mut parser = Parser {
            tokens: tokens(text)?,
            at: 0,
            scopes: Vec::new(),
        };
        let value = parser.expression(0)?;
        if parser.at < parser.tokens.len() {
            return Err(parser.error(
                "only `let ... in { ... }` is understood here; evaluate it and give the JSON",
            ));
        }
        Self::from_value(&value)
    }

    /// Reads what `nix eval --json -f secrets.nix` prints.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        Self::from_value(&store::read_json_value(text)?)
    }

    fn from_value(value: &Value) -> Result<Self, Error> {
        let bad = |reason: String| Error::SecretsNix { line: 0, reason };
        let Value::Map(files) = value else {
            return Err(bad("it is not an attribute set".into()));
        };
        let mut all = BTreeMap::new();
        for (name, file) in files
            .iter()
            .filter_map(|item| Some((item.name()?, &item.value)))
        {
            let Value::Map(fields) = file else {
                return Err(bad(format!("`{name}` is not an attribute set")));
            };
            let Some(Value::List(keys)) = get(fields, "publicKeys") else {
                return Err(bad(format!("`{name}` has no list `publicKeys`")));
            };
            let keys = keys.iter().map(|key| key.as_text().map(Recipient::parse));
            let keys = keys.collect::<Option<Result<Vec<_>, _>>>();
            let mut recipients =
                keys.ok_or_else(|| bad(format!("a key of `{name}` is not a string")))??;
            let mut seen = std::collections::BTreeSet::new();
            recipients.retain(|recipient| seen.insert(recipient.clone()));
            let armor = get(fields, "armor") == Some(&Value::Bool(true));
            all.insert(name.to_owned(), Entry { recipients, armor });
        }
        Ok(Self(all))
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Mark(char),
    Concat,
}

fn tokens(text: &str) -> Result<Vec<(Token, usize)>, Error> {
    let mut out = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(c) = rest.chars().next() {
        let fail = |reason: &str| Error::SecretsNix {
            line,
            reason: reason.to_owned(),
        };
        let used = if c.is_whitespace() {
            c.len_utf8()
        } else if c == '#' {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/")
                .ok_or_else(|| fail("a comment without an end"))?
                + 2
        } else if c == '"' {
            let (string, used) =
                string(rest).ok_or_else(|| fail("a string without an end, or with `${`"))?;
            out.push((Token::Text(string), line));
            used
        } else if rest.starts_with("++") {
            out.push((Token::Concat, line));
            2
        } else if "[]{}()=;.".contains(c) {
            out.push((Token::Mark(c), line));
            1
        } else if c.is_ascii_alphabetic() || c == '_' {
            let end = rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || "_-'".contains(c)))
                .unwrap_or(rest.len());
            out.push((Token::Word(rest[..end].to_owned()), line));
            end
        } else {
            return Err(fail(
                "this part of Nix is not understood here; evaluate it and give the JSON",
            ));
        };
        line += rest[..used].matches('\n').count();
        rest = &rest[used..];
        if out.len() > crate::NODES_MAX {
            return Err(Error::SecretsNix {
                line,
                reason: "it is too long".into(),
            });
        }
    }
    Ok(out)
}

/// The string at the start and the bytes it took.
fn string(text: &str) -> Option<(String, usize)> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, at + 1)),
            '$' if chars.peek().is_some_and(|(_, next)| *next == '{') => return None,
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                other => out.push(other),
            },
            c => out.push(c),
        }
    }
    None
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    scopes: Vec<Vec<Item>>,
}

impl Parser {
    fn error(&self, reason: &str) -> Error {
        let line = self
            .tokens
            .get(self.at.min(self.tokens.len().saturating_sub(1)))
            .map_or(1, |(_, line)| *line);
        Error::SecretsNix {
            line,
            reason: reason.to_owned(),
        }
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    fn take(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, mark: char) -> Result<(), Error> {
        if self.take(&Token::Mark(mark)) {
            Ok(())
        } else {
            Err(self.error(&format!("`{mark}` was expected")))
        }
    }

    fn word(&mut self, word: &str) -> bool {
        self.take(&Token::Word(word.to_owned()))
    }

    fn expression(&mut self, depth: usize) -> Result<Value, Error> {
        if depth > crate::DEPTH_MAX {
            return Err(self.error("it is nested too deeply"));
        }
        if self.word("let") {
            self.scopes.push(Vec::new());
            while !self.word("in") {
                let (path, value) = self.binding(depth + 1)?;
                let scope = self
                    .scopes
                    .last_mut()
                    .map(|scope| insert(scope, &path, value));
                scope
                    .unwrap_or(Ok(()))
                    .map_err(|reason| self.error(reason))?;
            }
            let value = self.expression(depth + 1)?;
            self.scopes.pop();
            return Ok(value);
        }
        let mut value = self.operand(depth)?;
        while self.take(&Token::Concat) {
            let more = self.operand(depth)?;
            let (Value::List(list), Value::List(more)) = (&mut value, more) else {
                return Err(self.error("`++` joins lists"));
            };
            list.extend(more);
            if list.len() > crate::NODES_MAX {
                return Err(self.error("a list is too long"));
            }
        }
        Ok(value)
    }

    fn operand(&mut self, depth: usize) -> Result<Value, Error> {
        if depth > crate::DEPTH_MAX {
            return Err(self.error("it is nested too deeply"));
        }
        let Some(token) = self.peek().cloned() else {
            return Err(self.error("unexpected end"));
        };
        self.at += 1;
        match token {
            Token::Text(text) => Ok(Value::text(text)),
            Token::Word(word) if word == "true" || word == "false" => {
                Ok(Value::Bool(word == "true"))
            }
            Token::Word(word)
                if word == "rec" || word == "with" || word == "import" || word == "builtins" =>
            {
                self.at -= 1;
                Err(self.error(
                    "this part of Nix is not understood here; evaluate it and give the JSON",
                ))
            }
            Token::Word(word) => self.variable(&word),
            Token::Mark('[') => {
                let mut values = Vec::new();
                while !self.take(&Token::Mark(']')) {
                    values.push(self.operand(depth + 1)?);
                }
                Ok(Value::List(values))
            }
            Token::Mark('{') => {
                let mut items = Vec::new();
                while !self.take(&Token::Mark('}')) {
                    let (path, value) = self.binding(depth + 1)?;
                    insert(&mut items, &path, value).map_err(|reason| self.error(reason))?;
                }
                Ok(Value::Map(items))
            }
            Token::Mark('(') => {
                let value = self.expression(depth + 1)?;
                self.expect(')')?;
                Ok(value)
            }
            Token::Mark(_) | Token::Concat => {
                self.at -= 1;
                Err(self.error("a value was expected"))
            }
        }
    }

    /// A name from `let`, with `.attributes` behind it.
    fn variable(&mut self, word: &str) -> Result<Value, Error> {
        let found = self
            .scopes
            .iter()
            .rev()
            .find_map(|scope| get(scope, word))
            .cloned();
        let mut value =
            found.ok_or_else(|| self.error(&format!("`{word}` is not defined above")))?;
        while self.take(&Token::Mark('.')) {
            let name = self.name()?;
            let inner = if let Value::Map(items) = &value {
                get(items, &name).cloned()
            } else {
                None
            };
            value = inner.ok_or_else(|| self.error(&format!("there is no attribute `{name}`")))?;
        }
        Ok(value)
    }

    fn name(&mut self) -> Result<String, Error> {
        match self.peek().cloned() {
            Some(Token::Word(name) | Token::Text(name)) => {
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.error("a name was expected")),
        }
    }

    fn binding(&mut self, depth: usize) -> Result<(Vec<String>, Value), Error> {
        let mut path = vec![self.name()?];
        while self.take(&Token::Mark('.')) {
            path.push(self.name()?);
        }
        self.expect('=')?;
        let value = self.expression(depth)?;
        self.expect(';')?;
        Ok((path, value))
    }
}

fn insert(items: &mut Vec<Item>, path: &[String], value: Value) -> Result<(), &'static str> {
    let Some((name, rest)) = path.split_first() else {
        return Ok(());
    };
    let at = items.iter().position(|item| item.name() == Some(name));
    match (at, rest.is_empty()) {
        (None, true) => items.push(Item::named(name, value)),
        (None, false) => {
            let mut inner = Vec::new();
            insert(&mut inner, rest, value)?;
            items.push(Item::named(name, Value::Map(inner)));
        }
        (Some(at), false) => match &mut items[at].value {
            Value::Map(inner) => insert(inner, rest, value)?,
            _ => return Err("an attribute is defined twice"),
        },
        (Some(_), true) => return Err("an attribute is defined twice"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_secrets_nix_is_read_and_its_json_says_the_same() {
        let (_, a) = crate::generate_identity();
        let (_, b) = crate::generate_identity();
        let nix = format!(
            "let\n  # people\n  alice = \"{a}\";\n  hosts = {{ web = \"{b}\"; }};\n  all = [ alice ] ++ [ hosts.web alice ];\nin\n{{\n  \"x.age\".publicKeys = all;\n  \"y.age\" = {{ publicKeys = [ hosts.web ]; armor = true; }};\n}}\n"
        );
        let read = Recipients::from_nix(&nix).expect("the usual subset");
        assert_eq!(read.0["x.age"].recipients, vec![a.clone(), b.clone()]);
        assert!(read.0["y.age"].armor);
        let json = format!(
            "{{\"x.age\": {{\"publicKeys\": [\"{a}\", \"{b}\"]}}, \"y.age\": {{\"armor\": true, \"publicKeys\": [\"{b}\"]}}}}"
        );
        assert_eq!(Recipients::from_json(&json).expect("JSON"), read);
    }

    #[test]
    fn a_nix_program_that_is_not_understood_is_said_so_with_its_line() {
        let error =
            Recipients::from_nix("let\n  x = import ./keys.nix;\nin { }").expect_err("import");
        assert!(
            matches!(error, Error::SecretsNix { line: 2, .. }),
            "{error}"
        );
    }

    #[test]
    fn rekeying_gives_the_new_recipients_the_same_bytes() {
        let (secret_a, a) = crate::generate_identity();
        let (secret_b, b) = crate::generate_identity();
        let mut old = Identities::new();
        old.add_age(secrecy::ExposeSecret::expose_secret(&secret_a))
            .expect("an identity");
        let mut new = Identities::new();
        new.add_age(secrecy::ExposeSecret::expose_secret(&secret_b))
            .expect("an identity");
        let file = encrypt(
            b"x\0y",
            &Entry {
                recipients: vec![a],
                armor: true,
            },
        )
        .expect("seals");
        assert!(file.starts_with(b"-----BEGIN AGE"));
        let file = rekey(
            &file,
            &old,
            &Entry {
                recipients: vec![b],
                armor: false,
            },
        )
        .expect("rekeys");
        assert_eq!(&**decrypt(&file, &new).expect("opens"), b"x\0y");
        assert!(decrypt(&file, &old).is_err());
    }
}
