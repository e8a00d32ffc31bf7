//! How results look: JSON and YAML are the documents themselves, tables are for people. No colour in a pipe.

use serde::Serialize;
use serde_json::Value;
use trueup_schema::{HostName, Revision, StorePath, Timestamp};

use super::{CliError, Ctx};

/// `-o`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum Format {
    /// For people
    #[default]
    Table,
    /// For people with a wide screen
    Wide,
    /// The documents
    Json,
    /// The same, as YAML
    Yaml,
    /// Names only, as `host/web-1`
    Name,
}

impl Format {
    /// Prints the document where that was asked for; says whether it did.
    pub fn document<T: Serialize>(self, ctx: &mut Ctx<'_>, value: &T) -> Result<bool, CliError> {
        let value =
            || serde_json::to_value(value).map_err(|e| CliError::failed(format!("as JSON: {e}")));
        match self {
            Self::Json => ctx.say(format_args!("{:#}", value()?)),
            Self::Yaml => ctx.say(yaml(&value()?).trim_end()),
            Self::Table | Self::Wide | Self::Name => return Ok(false),
        }
        Ok(true)
    }
}

/// No screen is narrower for the column that wraps.
const WRAP_MIN: usize = 20;
/// Between two columns.
const GAP: &str = "  ";

/// Columns of one width, so that rows that come later stand below the first.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    heads: &'static [&'static str],
    widths: Vec<usize>,
}

impl Columns {
    /// As wide as the widest cell.
    pub fn of(heads: &'static [&'static str], rows: &[Vec<String>]) -> Self {
        let width = |n: usize| {
            let cells = rows.iter().filter_map(|r| r.get(n));
            let widest = cells.map(|c| c.chars().count()).max().unwrap_or(0);
            widest.max(heads.get(n).map_or(0, |h| h.chars().count()))
        };
        Self {
            heads,
            widths: (0..heads.len()).map(width).collect(),
        }
    }

    pub fn head(&self, ctx: &mut Ctx<'_>) {
        let heads: Vec<String> = self.heads.iter().map(|h| (*h).to_owned()).collect();
        let line = self.line(&heads, false).trim_end().to_owned();
        ctx.say(if ctx.screen.colour {
            format!("\x1b[1m{line}\x1b[0m")
        } else {
            line
        });
    }

    /// One row; on a terminal its last cell wraps below itself, and cells that say how well it goes are coloured.
    /// Gives the number of lines it took.
    pub fn row(&self, ctx: &mut Ctx<'_>, cells: &[String]) -> usize {
        let Some((last, first)) = cells.split_last() else {
            return 0;
        };
        let start: usize = self.widths[..first.len().min(self.widths.len())]
            .iter()
            .map(|w| w + GAP.len())
            .sum();
        let room = ctx
            .screen
            .width
            .map_or(usize::MAX, |w| w.saturating_sub(start));
        let pieces = if ctx.screen.out && room >= WRAP_MIN {
            wrap(last, room)
        } else {
            vec![last.clone()]
        };
        let mut cells = first.to_vec();
        cells.push(pieces.first().cloned().unwrap_or_default());
        let line = self.line(&cells, ctx.screen.colour);
        ctx.say(line.trim_end());
        for piece in pieces.iter().skip(1) {
            ctx.say(format_args!("{:start$}{piece}", ""));
        }
        pieces.len().max(1)
    }

    fn line(&self, cells: &[String], colours: bool) -> String {
        let padded = cells.iter().zip(&self.widths).map(|(cell, width)| {
            let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
            match colour(cell).filter(|_| colours) {
                Some(code) => format!("\x1b[{code}m{cell}\x1b[0m{pad}"),
                None => format!("{cell}{pad}"),
            }
        });
        padded.collect::<Vec<_>>().join(GAP)
    }
}

/// Breaks at blanks, and within a word only where it is wider than the room.
pub(super) fn wrap(text: &str, room: usize) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        if !line.is_empty() && line.chars().count() + 1 + word.len() > room {
            lines.push(std::mem::take(&mut line));
        }
        while word.len() > room {
            let rest = word.split_off(room);
            lines.push(std::mem::replace(&mut word, rest).into_iter().collect());
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word);
    }
    lines.push(line);
    lines
}

const GREEN: u8 = 32;
const RED: u8 = 31;
const YELLOW: u8 = 33;

/// By the cell's first word: `Building 41/57` is as `Building`.
fn colour(cell: &str) -> Option<u8> {
    match cell.split(' ').next().unwrap_or_default() {
        "True" | "Ready" | "Succeeded" | "ReconciliationSucceeded" | "Confirmed" | "unchanged" => {
            Some(GREEN)
        }
        "False"
        | "Stalled"
        | "Failed"
        | "RolledBack"
        | "RolledBack(partial)"
        | "RollbackFailed"
        | "Unreachable"
        | "Quarantined"
        | "BuildFailed"
        | "EvaluationFailed"
        | "fails" => Some(RED),
        "Drifted"
        | "Held"
        | "Suspended"
        | "RebootRequired"
        | "Rebooting"
        | "AwaitingConfirmation"
        | "RollingBack"
        | "…"
        | "changed"
        | "new"
        | "removed" => Some(YELLOW),
        _ => None,
    }
}

/// `main@sha1:7c0ffee`.
pub(super) fn short_revision(revision: Option<&Revision>) -> String {
    revision.map_or_else(|| "-".to_owned(), Revision::short)
}

/// `6xk1…-nixos-system-web-1-26.05`.
pub(super) fn short_path(path: Option<&StorePath>) -> String {
    path.map_or_else(|| "-".to_owned(), StorePath::short)
}

/// `6xk1…-26.05` for a closure in the line of its host, whose name stands there already.
pub(super) fn closure_of(path: Option<&StorePath>, host: &str) -> String {
    without_host(&short_path(path), host)
}

/// The host's name taken out of the names of its closures.
fn without_host(text: &str, host: &str) -> String {
    text.replace(&format!("-nixos-system-{host}-"), "-")
}

/// A message in a table or a page: one line, store paths short, the host's own name not said again.
pub(super) fn brief(message: &str, host: Option<&HostName>) -> String {
    let line = message.lines().next().unwrap_or_default();
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("/nix/store/") {
        out.push_str(&rest[..at]);
        let path = &rest[at..];
        let part = |b: u8| b.is_ascii_alphanumeric() || b"+-._?=".contains(&b);
        let start = "/nix/store/".len();
        let end = path
            .bytes()
            .skip(start)
            .position(|b| !part(b))
            .map_or(path.len(), |n| start + n);
        let (path, after) = path.split_at(end);
        match path.parse::<StorePath>() {
            Ok(path) => out.push_str(&path.short()),
            Err(_) => out.push_str(path),
        }
        rest = after;
    }
    out.push_str(rest);
    let out = local_times(&out, Timestamp::now());
    match host {
        Some(host) => without_host(&out, host.as_str()),
        None => out,
    }
}

/// Times in a sentence of the controller, in the reader's zone: it writes them as `2026-01-01T14:05:06Z`.
pub(super) fn local_times(text: &str, now: Timestamp) -> String {
    let part = |c: char| c.is_ascii_digit() || "-:.TZ".contains(c);
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let end = rest[start..]
            .find(|c| !part(c))
            .map_or(rest.len(), |n| start + n);
        let word = &rest[start..end];
        let time = word
            .split_inclusive('Z')
            .next()
            .filter(|t| t.ends_with('Z') && t.contains('T'));
        let end = time.map_or(end, |t| start + t.len());
        out.push_str(&rest[..start]);
        match time.and_then(|t| t.parse().ok()) {
            Some(then) => out.push_str(&clock(then, now)),
            None => out.push_str(&rest[start..end]),
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// How long ago: `12s`, `3m`, `5h`, `3d`.
pub(super) fn age(then: Timestamp, now: Timestamp) -> String {
    let secs = now.as_second().saturating_sub(then.as_second()).max(0);
    match secs {
        0..=119 => format!("{secs}s"),
        120..=7199 => format!("{}m", secs / 60),
        7200..=172_799 => format!("{}h", secs / 3600),
        _ => format!("{}d", secs / 86400),
    }
}

/// In the reader's time zone: `14:05:06` for today, with the date otherwise.
pub(super) fn clock(then: Timestamp, now: Timestamp) -> String {
    let zone = jiff::tz::TimeZone::system();
    let (then, now) = (then.to_zoned(zone.clone()), now.to_zoned(zone));
    let form = if then.date() == now.date() {
        "%H:%M:%S"
    } else {
        "%Y-%m-%d %H:%M:%S"
    };
    then.strftime(form).to_string()
}

/// `1.2 MiB`.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut unit = 0;
    // Tenths, so that no floating point decides what is printed.
    let mut tenths = n * 10 / 1024;
    while tenths >= 10240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    match tenths {
        0..=999 => format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]),
        _ => format!("{} {}", tenths / 10, UNITS[unit]),
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
    fn ages_and_sizes_are_short() {
        let now: Timestamp = "2026-01-10T00:00:00Z".parse().unwrap();
        for (then, want) in [
            ("2026-01-09T23:59:48Z", "12s"),
            ("2026-01-09T23:50:00Z", "10m"),
            ("2026-01-09T00:00:00Z", "24h"),
            ("2026-01-01T00:00:00Z", "9d"),
        ] {
            assert_eq!(age(then.parse().unwrap(), now), want);
        }
        for (n, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_258_291, "1.1 MiB"),
            (137_363_456, "131 MiB"),
        ] {
            assert_eq!(bytes(n), want);
        }
    }

    #[test]
    fn long_store_paths_are_short_in_a_sentence() {
        let host: HostName = "web-1".parse().unwrap();
        let path = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-nixos-system-web-1-26.05";
        let text = format!("runs {path}, should run {path}/bin; /nix/store/x");
        assert_eq!(
            brief(&text, Some(&host)),
            "runs 00bg…-26.05, should run 00bg…-26.05/bin; /nix/store/x"
        );
    }

    #[test]
    fn times_in_a_sentence_are_those_of_the_reader() {
        let now: Timestamp = "2026-01-10T12:00:00Z".parse().unwrap();
        let text = "by ana since 2026-01-10T11:05:06.123456Z, until 2026-01-10T23:00:00Z: 2 disks, 10.0.0.1-a";
        let at = |t: &str| clock(t.parse().unwrap(), now);
        let want = format!(
            "by ana since {}, until {}: 2 disks, 10.0.0.1-a",
            at("2026-01-10T11:05:06Z"),
            at("2026-01-10T23:00:00Z")
        );
        assert_eq!(local_times(text, now), want);
    }

    #[test]
    fn a_line_breaks_at_blanks() {
        assert_eq!(wrap("a bc def", 4), ["a bc", "def"]);
        assert_eq!(wrap("abcdefgh i", 3), ["abc", "def", "gh", "i"]);
        assert_eq!(wrap("", 3), [""]);
    }
}
