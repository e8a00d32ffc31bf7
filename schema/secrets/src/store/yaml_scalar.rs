//! What a YAML scalar is: the resolution of go-yaml v3, which is neither YAML 1.1 nor 1.2 but both in part.

use crate::time;
use crate::value::Value;

/// A plain scalar without a tag.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Value::Float(f64::INFINITY);
        }
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Value::text(text);
    }
    if let Some(time) = time::yaml(text) {
        return Value::Time(time);
    }
    let plain = text.replace('_', "");
    int(&plain)
        .or_else(|| float(&plain))
        .unwrap_or_else(|| Value::text(text))
}

fn int(text: &str) -> Option<Value> {
    let (sign, digits) = match text.split_at_checked(1) {
        Some(("-", digits)) => ("-", digits),
        Some(("+", digits)) => ("", digits),
        _ => ("", text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        // The octal of YAML 1.1.
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    if let Ok(int) = i64::from_str_radix(&format!("{sign}{digits}"), radix) {
        return Some(Value::Int(int));
    }
    if sign.is_empty() {
        return u64::from_str_radix(digits, radix).ok().map(Value::Unsigned);
    }
    None
}

/// `[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?`; what overflows stays a string.
fn float(text: &str) -> Option<Value> {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match body.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (
            mantissa,
            Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)),
        ),
        None => (body, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let shaped = digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    if !shaped || exponent.is_some_and(|exponent| exponent.is_empty() || !digits(exponent)) {
        return None;
    }
    text.parse()
        .ok()
        .filter(|float: &f64| float.is_finite())
        .map(Value::Float)
}

/// A scalar with a tag of the core schema.
pub(super) fn forced(tag: &str, text: &str) -> Option<Value> {
    match (tag, resolve(text)) {
        ("str", _) => Some(Value::text(text)),
        ("null", _) => Some(Value::Null),
        ("bool", value @ Value::Bool(_)) => Some(value),
        ("bool", _) => match text {
            "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(Value::Bool(true)),
            "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(Value::Bool(false)),
            _ => None,
        },
        ("int", value @ (Value::Int(_) | Value::Unsigned(_))) => Some(value),
        ("float", value @ Value::Float(_)) => Some(value),
        #[expect(clippy::cast_precision_loss, reason = "what the tag asks for")]
        ("float", Value::Int(int)) => Some(Value::Float(int as f64)),
        ("timestamp", value @ Value::Time(_)) => Some(value),
        _ => None,
    }
}

/// Whether a reader, ours or one of YAML 1.1, would take the string for something else.
pub(super) fn needs_quotes(text: &str) -> bool {
    const OLD_BOOLS: [&str; 22] = [
        "y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "n", "N", "no", "No", "NO", "off", "Off",
        "OFF", "=", "<<", "true", "false", "null", "~",
    ];
    OLD_BOOLS.contains(&text) || !matches!(resolve(text), Value::Str(_)) || is_base60(text)
}

/// `1:20` is 80 to YAML 1.1: `[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?`.
fn is_base60(text: &str) -> bool {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (body, fraction) = body.split_once('.').unwrap_or((body, ""));
    let mut parts = body.split(':');
    let first = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    first.starts_with(|c: char| c.is_ascii_digit())
        && first
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'_')
        && !rest.is_empty()
        && rest
            .iter()
            .all(|part| part.len() < 3 && part.parse::<u8>().is_ok_and(|number| number < 60))
        && fraction
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_resolve_as_the_reference_resolves_them() {
        let table = [
            ("0x1F", "31"),
            ("0o17", "15"),
            ("017", "15"),
            ("0b101", "5"),
            ("1_000", "1000"),
            ("1e3", "1000"),
            ("1.50", "1.5"),
            ("08", "8"),
            ("yes", "yes"),
            ("True", "True"),
            ("1e400", "1e400"),
            ("12:30:45", "12:30:45"),
            ("+3", "3"),
            ("-", "-"),
            ("1e21", "1000000000000000000000"),
            ("18446744073709551616", "18446744073709552000"),
            (".", "."),
            ("2020-01-01", "2020-01-01T00:00:00Z"),
        ];
        for (text, canonical) in table {
            assert_eq!(
                resolve(text).canonical().as_deref().map(Vec::as_slice),
                Some(canonical.as_bytes()),
                "{text}"
            );
        }
        assert!(matches!(resolve("08"), Value::Float(_)));
        assert!(matches!(resolve("yes"), Value::Str(_)));
        assert!(matches!(resolve("9223372036854775808"), Value::Unsigned(_)));
    }
}
