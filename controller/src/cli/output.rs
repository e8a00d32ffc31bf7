//! How results look: JSON and YAML are the documents themselves, tables are for people. No colour in a pipe.

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde_json::Value;
use trueup_schema::Timestamp;

use super::{CliError, Ctx};

/// `-o`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Table,
    /// For people with a wide screen.
    Wide,
    /// The documents.
    Json,
    /// The same, as YAML.
    Yaml,
}

impl Format {
    /// Prints the document where that was asked for; says whether it did.
    pub fn document(self, ctx: &mut Ctx<'_>, value: &Value) -> Result<bool, CliError> {
        match self {
            Self::Json => ctx.say(format_args!("{value:#}")),
            Self::Yaml => {
                let text = yaml(value);
                ctx.say(text.trim_end());
            }
            Self::Table | Self::Wide => return Ok(false),
        }
        Ok(true)
    }
}

/// A table with a line of heads. Cells that say how well it goes are coloured on a terminal.
pub(super) fn table(ctx: &mut Ctx<'_>, heads: &[&str], rows: &[Vec<String>]) {
    if ctx.tty {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(heads);
        for row in rows {
            table.add_row(row.iter().map(|text| match colour(text) {
                Some(colour) => Cell::new(text).fg(colour),
                None => Cell::new(text),
            }));
        }
        ctx.say(table.trim_fmt());
        return;
    }
    // In a pipe: columns of spaces, which `awk` and `column` read alike.
    let width = |n: usize| {
        let cells = rows
            .iter()
            .filter_map(|r| r.get(n))
            .map(|c| c.chars().count());
        cells
            .chain(heads.get(n).map(|h| h.chars().count()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let head = line(&mut heads.iter().copied());
    ctx.say(head);
    for row in rows {
        let text = line(&mut row.iter().map(String::as_str));
        ctx.say(text);
    }
}

fn colour(text: &str) -> Option<Color> {
    match text {
        "True" | "Ready" | "Succeeded" => Some(Color::Green),
        "False"
        | "Stalled"
        | "Failed"
        | "RolledBack"
        | "RolledBack(partial)"
        | "RollbackFailed"
        | "Unreachable" => Some(Color::Red),
        "Drifted"
        | "Held"
        | "Suspended"
        | "RebootRequired"
        | "AwaitingConfirmation"
        | "RollingBack" => Some(Color::Yellow),
        _ => None,
    }
}

/// Text at a JSON pointer; empty when it is not there.
pub(super) fn at<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The items of a list.
pub(super) fn items(list: &Value) -> &[Value] {
    list.get("items")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// `-` for what is not known.
pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

/// `main@sha1:7c0ffee` for a whole revision.
pub(super) fn short_revision(text: &str) -> String {
    text.parse::<trueup_schema::Revision>()
        .map_or_else(|_| or_dash(text), |r| r.short())
}

/// `6xk1…-nixos-system-web-1-26.05` for a store path.
pub(super) fn short_path(text: &str) -> String {
    text.parse::<trueup_schema::StorePath>()
        .map_or_else(|_| or_dash(text), |p| p.short())
}

/// How long ago: `12s`, `3m`, `5h`, `3d`.
pub(super) fn age(since: &str, now: Timestamp) -> String {
    let Ok(then) = since.parse::<Timestamp>() else {
        return "-".to_owned();
    };
    let secs = now.as_second().saturating_sub(then.as_second()).max(0);
    match secs {
        0..=119 => format!("{secs}s"),
        120..=7199 => format!("{}m", secs / 60),
        7200..=172_799 => format!("{}h", secs / 3600),
        _ => format!("{}d", secs / 86400),
    }
}

/// JSON as YAML: block style, every text in quotes that could be read as something else.
pub(super) fn yaml(value: &Value) -> String {
    let mut out = String::new();
    block(&mut out, value, 0, false);
    out
}

fn block(out: &mut String, value: &Value, depth: usize, in_list: bool) {
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (n, (key, value)) in map.iter().enumerate() {
                let lead = if n == 0 && in_list { "" } else { pad.as_str() };
                out.push_str(lead);
                out.push_str(&scalar(key));
                out.push(':');
                below(out, value, depth);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (n, value) in list.iter().enumerate() {
                out.push_str(if n == 0 && in_list { "" } else { pad.as_str() });
                out.push_str("- ");
                match value {
                    Value::Object(map) if !map.is_empty() => block(out, value, depth + 1, true),
                    Value::Array(inner) if !inner.is_empty() => block(out, value, depth + 1, true),
                    leaf => out.push_str(&format!("{}\n", inline(leaf))),
                }
            }
        }
        leaf => out.push_str(&format!("{pad}{}\n", inline(leaf))),
    }
}

fn below(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            block(out, value, depth + 1, false);
        }
        Value::Array(list) if !list.is_empty() => {
            out.push('\n');
            block(out, value, depth, false);
        }
        leaf => out.push_str(&format!(" {}\n", inline(leaf))),
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}

/// Plain only where no reader of YAML 1.1 or 1.2 could take it for anything but text; else as JSON writes it, which is
/// YAML as well.
fn scalar(text: &str) -> String {
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "/._-@+".contains(c));
    let meaning = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    if word && !meaning.contains(&text.to_ascii_lowercase().as_str()) {
        text.to_owned()
    } else {
        Value::String(text.to_owned()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_reads_back_as_the_same_document() {
        let value = json!({
            "kind": "List", "empty": [], "none": null, "also": {},
            "items": [{"a": "no", "b": ["x: y", "1.0", [1, 2]], "c": {"d": "# not a comment\nline"}}, "on", 3, -1.5],
            "12": true,
        });
        let back: Value = serde_saphyr::from_str(&yaml(&value)).unwrap();
        assert_eq!(back, value, "{}", yaml(&value));
    }

    #[test]
    fn ages_are_short() {
        let now: Timestamp = "2026-01-10T00:00:00Z".parse().unwrap();
        for (then, want) in [
            ("2026-01-09T23:59:48Z", "12s"),
            ("2026-01-09T23:50:00Z", "10m"),
            ("2026-01-09T00:00:00Z", "24h"),
            ("2026-01-01T00:00:00Z", "9d"),
            ("", "-"),
        ] {
            assert_eq!(age(then, now), want);
        }
    }
}
