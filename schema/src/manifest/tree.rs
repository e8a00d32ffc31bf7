//! YAML as a tree in which every value knows its place. Decides nothing about kinds.
//!
//! A tree and not serde, because serde stops at the first error of a document and points to line 1 for a missing field.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle, Span as YamlSpan};

use super::{
    limits::{DEPTH_MAX, NODES_MAX},
    problem::{Problem, ProblemKind},
    source::{Chunk, Source, Span},
};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub value: Value,
    pub span: Span,
    /// The key that it stands behind.
    pub key: Option<Span>,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// What could not be known, and was reported: nothing more is said of it.
    Broken,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub at: Span,
    pub value: Node,
}

/// What a plain scalar means by YAML 1.2's core schema, in which `no` and `on` are words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Null,
    Bool(bool),
    Integer,
    Float,
    Text,
}

pub(super) fn meaning(text: &str) -> Meaning {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Meaning::Null,
        "true" | "True" | "TRUE" => return Meaning::Bool(true),
        "false" | "False" | "FALSE" => return Meaning::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_integer = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // `0755` is octal for one reader and decimal for another: text for us, so no number field takes it.
    if is_integer && (digits == "0" || !digits.starts_with('0')) {
        return Meaning::Integer;
    }
    let float_like = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits
            .bytes()
            .all(|b| b.is_ascii_digit() || b"eE.+-".contains(&b));
    if float_like && !is_integer && text.parse::<f64>().is_ok_and(f64::is_finite) {
        return Meaning::Float;
    }
    Meaning::Text
}

impl Node {
    /// Where to point: at a scalar itself, else at its key.
    pub fn at(&self) -> Span {
        match (&self.value, self.key) {
            (Value::Scalar { text, plain }, Some(key)) if *plain && text.is_empty() => key,
            (Value::Scalar { .. }, _) | (_, None) => self.span,
            (_, Some(key)) => key,
        }
    }

    pub fn meaning(&self) -> Option<Meaning> {
        match &self.value {
            Value::Scalar { text, plain: true } => Some(meaning(text)),
            Value::Scalar { .. } => Some(Meaning::Text),
            _ => None,
        }
    }

    pub fn get(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == key),
            _ => None,
        }
    }

    /// The value at a path of keys, and item `n` of it where it is a list.
    pub fn find(&self, path: &[&str], item: Option<usize>) -> Option<&Node> {
        let mut node = self;
        for key in path {
            node = match (&node.value, key.parse::<usize>()) {
                (Value::List(items), Ok(n)) => items.get(n)?,
                _ => &node.get(key)?.value,
            };
        }
        match (item, &node.value) {
            (Some(n), Value::List(items)) => items.get(n),
            (None, _) => Some(node),
            _ => None,
        }
    }

    fn count(&self) -> usize {
        1 + match &self.value {
            Value::Scalar { .. } | Value::Broken => 0,
            Value::List(items) => items.iter().map(Self::count).sum(),
            Value::Map(entries) => entries.iter().map(|e| 1 + e.value.count()).sum(),
        }
    }

    fn depth(&self) -> usize {
        1 + match &self.value {
            Value::Scalar { .. } | Value::Broken => 0,
            Value::List(items) => items.iter().map(Self::depth).max().unwrap_or(0),
            Value::Map(entries) => entries.iter().map(|e| e.value.depth()).max().unwrap_or(0),
        }
    }

    /// As JSON, for a check by JSON Schema.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Broken => Json::Null,
            Value::List(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Value::Map(entries) => Json::Object(
                entries
                    .iter()
                    .map(|e| (e.key.clone(), e.value.to_json()))
                    .collect(),
            ),
            Value::Scalar { text, .. } => match self.meaning().unwrap_or(Meaning::Text) {
                Meaning::Null => Json::Null,
                Meaning::Bool(b) => Json::Bool(b),
                Meaning::Integer | Meaning::Float => {
                    serde_json::from_str(text).unwrap_or_else(|_| Json::String(text.clone()))
                }
                Meaning::Text => Json::String(text.clone()),
            },
        }
    }
}

/// The tree of one document; `None` when there is nothing in it, or nothing that can be used.
pub(super) fn parse(source: &Source, chunk: &Chunk, problems: &mut Vec<Problem>) -> Parsed {
    let before = problems.len();
    let mut builder = Builder {
        source,
        chunk,
        problems,
        stack: Vec::new(),
        anchors: BTreeMap::new(),
        nodes: 0,
        root: None,
        done: false,
    };
    builder.run();
    let root = builder.root.take();
    match root {
        Some(node) if !node.is_empty_document() => Parsed::Document(Box::new(node)),
        _ if problems.len() > before => Parsed::Broken,
        _ => Parsed::Nothing,
    }
}

/// What a piece of a file came to.
pub(super) enum Parsed {
    Document(Box<Node>),
    Nothing,
    Broken,
}

impl Node {
    fn is_empty_document(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if text.is_empty())
    }
}

struct Builder<'a> {
    source: &'a Source,
    chunk: &'a Chunk,
    problems: &'a mut Vec<Problem>,
    stack: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
    done: bool,
}

/// A list or mapping that is not yet closed.
struct Open {
    value: Value,
    span: Span,
    anchor: usize,
    /// The key that waits for its value; `None` within: it was no word, and the value is dropped.
    key: Option<(Option<String>, Span)>,
}

impl Builder<'_> {
    fn run(&mut self) {
        let options = granit_parser::options! {
            emit_unresolved_aliases: true,
            disallow_directives: true,
            flow_nesting_limit: DEPTH_MAX + 1,
            block_nesting_limit: DEPTH_MAX + 1,
        };
        let text = self.chunk.text.as_str();
        for next in Parser::new_from_str_with_options(text, options) {
            match next {
                Ok((event, span)) => self.event(event, &span),
                Err(error) => {
                    self.syntax(&error);
                    self.root = None;
                    return;
                }
            }
            if self.done {
                self.root = None;
                return;
            }
        }
    }

    fn event(&mut self, event: Event<'_>, at: &YamlSpan) {
        let span = self.span(at);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                // The parser says `~` where nothing stands.
                let absent = plain && at.start.index() == at.end.index();
                let text = if absent { Default::default() } else { text };
                let value = match tag {
                    Some(_) => {
                        self.tag(at);
                        Value::Broken
                    }
                    None => Value::Scalar {
                        text: text.into_owned(),
                        plain,
                    },
                };
                let node = Node {
                    value,
                    span,
                    key: None,
                };
                self.remember(anchor, &node);
                self.add(node);
            }
            Event::SequenceStart(_, anchor, tag) => {
                if tag.is_some() {
                    self.tag(at);
                }
                self.open(Value::List(Vec::new()), span, anchor);
            }
            Event::MappingStart(_, anchor, tag) => {
                if tag.is_some() {
                    self.tag(at);
                }
                self.open(Value::Map(Vec::new()), span, anchor);
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(id) => match self.anchors.get(&id).cloned() {
                Some(node) => {
                    self.nodes += node.count();
                    if self.stack.len() + node.depth() > DEPTH_MAX {
                        self.too_deep(span);
                    }
                    self.add(node);
                }
                None => self.unknown_anchor(span),
            },
            Event::UnresolvedAlias(_) => self.unknown_anchor(span),
            _ => {}
        }
    }

    fn open(&mut self, value: Value, span: Span, anchor: usize) {
        if self.stack.len() >= DEPTH_MAX {
            self.too_deep(span);
        }
        self.stack.push(Open {
            value,
            span,
            anchor,
            key: None,
        });
    }

    fn close(&mut self) {
        let Some(open) = self.stack.pop() else { return };
        let node = Node {
            value: open.value,
            span: open.span,
            key: None,
        };
        self.remember(open.anchor, &node);
        self.add(node);
    }

    fn remember(&mut self, anchor: usize, node: &Node) {
        if anchor > 0 {
            self.nodes += node.count();
            self.anchors.insert(anchor, node.clone());
        }
    }

    fn add(&mut self, node: Node) {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            let text = format!(
                "a document has at most {NODES_MAX} values, aliases counted as what they stand for"
            );
            self.stop(
                ProblemKind::TooManyValues,
                node.span,
                &text,
                "use fewer aliases of aliases, or split the file",
            );
            return;
        }
        let Some(top) = self.stack.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut top.value {
            Value::List(items) => items.push(node),
            Value::Scalar { .. } | Value::Broken => {}
            Value::Map(entries) => match top.key.take() {
                // Reported already.
                Some((None, _)) => {}
                Some((Some(key), at)) => {
                    let mut value = node;
                    value.key = Some(at);
                    entries.push(Entry { key, at, value });
                }
                None => match node.value {
                    Value::Scalar { text, .. } => top.key = Some((Some(text), node.span)),
                    _ => {
                        top.key = Some((None, node.span));
                        self.report(
                            ProblemKind::Syntax,
                            node.span,
                            "a key is a word, not a list or a mapping",
                            "",
                        );
                    }
                },
            },
        }
    }

    fn unknown_anchor(&mut self, span: Span) {
        let help = "an alias `*name` repeats what was marked `&name` earlier in the same document; quote the text if it is none";
        self.report(
            ProblemKind::UnknownAnchor,
            span,
            "this alias has no anchor before it",
            help,
        );
        self.add(Node {
            value: Value::Broken,
            span,
            key: None,
        });
    }

    fn too_deep(&mut self, span: Span) {
        let text = format!("values lie deeper than {DEPTH_MAX} levels");
        self.stop(
            ProblemKind::TooDeep,
            span,
            &text,
            "no kind needs so many levels",
        );
    }

    fn tag(&mut self, at: &YamlSpan) {
        let span = match at.tag_span() {
            Some(tag) => self.span(&tag),
            None => self.span(at),
        };
        self.report(
            ProblemKind::Tag,
            span,
            "tags such as `!include` are not read",
            "leave it out",
        );
    }

    fn syntax(&mut self, error: &granit_parser::ScanError) {
        let mark = error.marker();
        let line = mark.line().max(1) + self.chunk.lines_before;
        let here = Span {
            line,
            column: mark.col() + 1,
            length: 1,
        };
        if error.info().contains("nesting") || error.info().contains("recursion") {
            self.too_deep(here);
            return;
        }
        // The scanner notices a tab at the value behind it or one line later.
        let tab = [line, line.saturating_sub(1)]
            .into_iter()
            .find_map(|n| Some((n, leading_tab(self.source.line(n)?)?)));
        match tab {
            Some((line, column)) => self.report(
                ProblemKind::TabIndentation,
                Span {
                    line,
                    column,
                    length: 1,
                },
                "YAML is indented with spaces, and here is a tab",
                "put spaces in its place",
            ),
            None => {
                let text = format!(
                    "this is not YAML: {}",
                    error.info().lines().next().unwrap_or_default()
                );
                self.report(ProblemKind::Syntax, here, &text, syntax_help(&text));
            }
        }
    }

    fn stop(&mut self, kind: ProblemKind, span: Span, text: &str, help: &str) {
        if !self.done {
            self.report(kind, span, text, help);
        }
        self.done = true;
    }

    fn report(&mut self, kind: ProblemKind, span: Span, text: &str, help: &str) {
        self.problems
            .push(Problem::new(kind, self.source, span, text).help(help));
    }

    /// The parser counts lines from 1 within the chunk and columns from 0.
    fn span(&self, at: &YamlSpan) -> Span {
        let length = if at.end.line() == at.start.line() {
            at.end.col().saturating_sub(at.start.col())
        } else {
            1
        };
        Span {
            line: at.start.line().max(1) + self.chunk.lines_before,
            column: at.start.col() + 1,
            length: length.max(1),
        }
    }
}

/// What most often lies behind the parser's words.
fn syntax_help(text: &str) -> &'static str {
    if text.contains("block mapping") || text.contains("block collection") {
        "compare how far the line is indented with the lines above"
    } else if text.contains("flow") {
        "a bracket or brace above is not closed"
    } else if text.contains("quote") {
        "the text that begins here has no end"
    } else {
        ""
    }
}

/// The column of a tab among the white space that a line begins with.
fn leading_tab(line: &str) -> Option<usize> {
    line.chars()
        .take_while(|c| c.is_whitespace())
        .position(|c| c == '\t')
        .map(|n| n + 1)
}
