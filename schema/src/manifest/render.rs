//! Problems as a person reads them: the rule, the place, the line with a mark under it, and what to do.

use std::fmt::Write as _;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::problem::Problem;

/// Whether words are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Text only: logs, pipes, the database.
    Plain,
    /// With ANSI colours: a terminal.
    Coloured,
}

/// How wide a line is shown: what is longer is cut around the mark.
const EXCERPT_CHARS_MAX: usize = 100;

/// How wide a tab is shown.
const TAB: &str = "    ";

/// All problems, one below the other, without a last line of sum.
#[must_use]
pub fn render(problems: &[Problem], style: Style) -> String {
    problems.iter().map(|problem| one(problem, style)).collect()
}

/// `2 errors`.
#[must_use]
pub fn count(problems: &[Problem]) -> String {
    match problems.len() {
        1 => "1 error".to_owned(),
        n => format!("{n} errors"),
    }
}

impl std::fmt::Display for Problem {
    /// On one line, for logs and events: `fleet/hosts.yaml:14:3: unknown field … (did you mean …?)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.file.is_empty(), self.line) {
            (true, _) => {}
            (false, 0) => write!(f, "{}: ", self.file)?,
            (false, line) => write!(f, "{}:{line}:{}: ", self.file, self.column)?,
        }
        f.write_str(&self.message)?;
        if !self.help.is_empty() {
            write!(f, " ({})", self.help)?;
        }
        Ok(())
    }
}

struct Paint(Style);

impl Paint {
    fn with(&self, code: &str, text: &str) -> String {
        match self.0 {
            Style::Plain => text.to_owned(),
            Style::Coloured => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        }
    }
    fn error(&self, text: &str) -> String {
        self.with("1;31", text)
    }
    fn frame(&self, text: &str) -> String {
        self.with("36", text)
    }
    fn mark(&self, text: &str) -> String {
        self.with("35", text)
    }
}

fn one(problem: &Problem, style: Style) -> String {
    let paint = Paint(style);
    let mut out = format!("{} {}\n", paint.error("error:"), problem.message);
    let gutter = problem.line.to_string().len();
    let pad = " ".repeat(gutter);
    match (problem.file.is_empty(), problem.line) {
        (true, _) => {}
        (false, 0) => line(
            &mut out,
            format!(" {pad} {}", paint.frame(&format!("╭─[{}]", problem.file))),
        ),
        (false, n) => {
            line(
                &mut out,
                format!(
                    " {pad} {}",
                    paint.frame(&format!("╭─[{}:{n}:{}]", problem.file, problem.column))
                ),
            );
            excerpt(&mut out, problem, &paint, gutter);
            marks(&mut out, problem, &paint, &pad);
        }
    }
    if problem.line == 0 && !problem.help.is_empty() {
        line(
            &mut out,
            format!(" {pad} {} {}", paint.frame("·"), problem.help),
        );
    }
    if !problem.note.is_empty() {
        line(
            &mut out,
            format!(" {pad} {} {}", paint.frame("·"), problem.note),
        );
    }
    out
}

fn excerpt(out: &mut String, problem: &Problem, paint: &Paint, gutter: usize) {
    let start = window(problem);
    if let Some(before) = problem
        .before
        .as_ref()
        .filter(|before| before.chars().count() > start)
    {
        let number = paint.frame(&format!("{:>gutter$} │", problem.line - 1));
        line(out, format!(" {number} {}", shown(&cut(before, start))));
    }
    let number = paint.frame(&format!("{:>gutter$} │", problem.line));
    line(
        out,
        format!(" {number} {}", shown(&cut(&problem.excerpt, start))),
    );
}

fn marks(out: &mut String, problem: &Problem, paint: &Paint, pad: &str) {
    let start = window(problem);
    let visible: Vec<char> = problem
        .excerpt
        .chars()
        .skip(start)
        .take(EXCERPT_CHARS_MAX)
        .collect();
    let from = (problem.column - 1)
        .saturating_sub(start)
        .min(visible.len());
    let to = (from + problem.length).min(visible.len());
    let before: String = visible[..from].iter().collect();
    let marked: String = visible[from..to].iter().collect();
    let lead = shown(&before).width() + usize::from(start > 0);
    let width = shown(&marked).width().max(1);
    let dot = paint.frame("·");
    let indent = " ".repeat(lead);
    if problem.help.is_empty() {
        line(
            out,
            format!(" {pad} {dot} {indent}{}", paint.mark(&"─".repeat(width))),
        );
        return;
    }
    let left = width / 2;
    let bar = format!("{}┬{}", "─".repeat(left), "─".repeat(width - left - 1));
    line(out, format!(" {pad} {dot} {indent}{}", paint.mark(&bar)));
    line(
        out,
        format!(
            " {pad} {dot} {indent}{}{} {}",
            " ".repeat(left),
            paint.mark("╰──"),
            problem.help
        ),
    );
}

/// The first character of a long line that is shown.
fn window(problem: &Problem) -> usize {
    let length = problem.excerpt.chars().count();
    if length <= EXCERPT_CHARS_MAX {
        0
    } else {
        (problem.column - 1).saturating_sub(EXCERPT_CHARS_MAX / 2)
    }
}

fn cut(text: &str, start: usize) -> String {
    let mut chars = text.chars().skip(start);
    let mut kept: String = chars.by_ref().take(EXCERPT_CHARS_MAX).collect();
    if start > 0 {
        kept.insert(0, '…');
    }
    if chars.next().is_some() {
        kept.push('…');
    }
    kept
}

/// A line as a terminal may show it: tabs as blanks, and nothing that steers it.
fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => out.push_str(TAB),
            c if c.width().is_none() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn line(out: &mut String, text: String) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{}", text.trim_end());
}
