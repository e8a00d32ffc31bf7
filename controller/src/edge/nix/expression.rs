//! Attributes of manifests to Nix expressions. Text of people becomes string literals only: nothing of it is code.

use std::fmt::Write as _;

/// `a."b.c".d` to its parts; `None` if the quotes don't match or a part is empty.
pub(super) fn parts(attribute: &str) -> Option<Vec<String>> {
    let (mut parts, mut part, mut quoted, mut was_quoted) =
        (Vec::new(), String::new(), false, false);
    for c in attribute.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                was_quoted = true;
            }
            '.' if !quoted => {
                if part.is_empty() && !was_quoted {
                    return None;
                }
                parts.push(std::mem::take(&mut part));
                was_quoted = false;
            }
            c => part.push(c),
        }
    }
    if quoted || (part.is_empty() && !was_quoted) {
        return None;
    }
    parts.push(part);
    Some(parts)
}

pub(super) fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' | '$' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A function from the flake's outputs (or a file's set) to `{ host = { drv, out }; … }`.
pub(super) fn select(wants: &[(&str, Vec<String>)]) -> String {
    let mut text = "o: {".to_owned();
    for (host, parts) in wants {
        let _infallible = write!(text, " {} = let d = o", literal(host));
        for part in parts {
            let _infallible = write!(text, ".{}", literal(part));
        }
        text.push_str("; in { drv = d.drvPath; out = d.outPath; };");
    }
    text.push_str(" }");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_can_not_leave_its_string() {
        let parts = parts("a.\"b.c\".d${builtins.abort \"x\"}").unwrap();
        let text = select(&[("h", parts)]);
        assert!(!text.contains("\"${"), "{text}");
        assert!(text.contains(r#"."a"."b.c"."d\${builtins""#), "{text}");
    }

    #[test]
    fn parts_are_split_at_dots_outside_quotes() {
        assert_eq!(parts("a.\"b.c\"").unwrap(), ["a", "b.c"]);
        for bad in ["", ".", "a.", ".a", "a..b", "\"a"] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }
}
