//! YAML, read event by event: comments become items before the node they belong to, aliases are expanded within a bound.
//! A scalar keeps its spelling's type, not its spelling.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use granit_parser::{Event, Options, Parser, Placement, ScalarStyle, Span, StructureStyle, Tag};

use crate::error::Error;
use crate::store::{Docs, Format, yaml_scalar};
use crate::value::{Item, Key, Value};

/// With the bound on nodes this lets text of 64 MiB through, the bound on a file.
const BYTES_PER_NODE: usize = 64;

type Events<'a> = Vec<(Event<'a>, Span)>;

/// Reads all documents. The first must not have a key twice.
pub(super) fn read(bytes: &[u8]) -> Result<Docs, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| bad(1, "it is not UTF-8"))?;
    if let Some(line) = control_character(text) {
        return Err(bad(line, "control characters are not allowed"));
    }
    let mut events = Vec::new();
    for event in Parser::new_from_str_with_options(text, Options::default()) {
        let (event, span) =
            event.map_err(|error| bad(error.marker().line(), "the syntax is wrong"))?;
        events.push((event, span));
        if events.len() > crate::NODES_MAX {
            return Err(bad(0, "it has too many values"));
        }
    }
    hoist_comments(&mut events);
    let mut builder = Builder {
        anchors: BTreeMap::new(),
        stack: Vec::new(),
        docs: Vec::new(),
        pending: Vec::new(),
        nodes: 0,
    };
    for (event, span) in events {
        builder.event(event, span)?;
    }
    Ok(builder.docs)
}

fn bad(line: usize, reason: &str) -> Error {
    Error::Parse {
        format: Format::Yaml,
        line,
        reason: reason.to_owned(),
    }
}

fn control_character(text: &str) -> Option<usize> {
    let is_bad = |c: char| match c {
        '\n' | '\r' | '\t' | '\u{85}' => false,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => true,
        _ => false,
    };
    let at = text.find(is_bad)?;
    Some(text[..at].matches('\n').count() + 1)
}

/// The scanner ends a block only when it sees what follows, so a comment inside at its end may come after the end or
/// before it. Own-line comments are put first; their column then says which block they belong to.
fn hoist_comments(events: &mut Events<'_>) {
    let mut start = 0;
    while start < events.len() {
        let run = events[start..]
            .iter()
            .take_while(|(event, _)| is_end(event) || is_comment(event))
            .count();
        if run > 1 {
            let rank = |event: &Event<'_>| usize::from(!is_comment(event));
            // A comment on the line of a flow collection's end must stay behind that end.
            let fixed = events[start..start + run]
                .iter()
                .take_while(|(event, _)| !matches!(event, Event::Comment(_, placement) if *placement != Placement::Right))
                .count();
            let fixed = if events[start..start + fixed]
                .iter()
                .any(|(event, _)| is_comment(event))
            {
                fixed
            } else {
                0
            };
            events[start + fixed..start + run].sort_by_key(|(event, _)| rank(event));
        }
        start += run.max(1);
    }
}

fn is_end(event: &Event<'_>) -> bool {
    matches!(event, Event::MappingEnd | Event::SequenceEnd)
}

fn is_comment(event: &Event<'_>) -> bool {
    matches!(event, Event::Comment(..))
}

struct Pending {
    text: String,
    column: usize,
    inline: bool,
}

enum Open {
    Map {
        items: Vec<Item>,
        key: Option<Key>,
        /// For finding a key that is there twice without looking at all of them.
        seen: BTreeSet<String>,
        column: usize,
        anchor: usize,
        flow: bool,
    },
    List {
        values: Vec<Value>,
        column: usize,
        anchor: usize,
        flow: bool,
    },
}

struct Builder {
    anchors: BTreeMap<usize, (Value, usize)>,
    stack: Vec<Open>,
    docs: Docs,
    pending: Vec<Pending>,
    nodes: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Error> {
        let line = span.start.line();
        match event {
            Event::Comment(text, placement) => self.comment(&text, placement, span.start.col()),
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(&text, style, anchor, tag.as_deref(), &span)
            }
            Event::MappingStart(style, anchor, _) => {
                self.flush();
                let flow = style == StructureStyle::Flow;
                self.open(
                    Open::Map {
                        items: Vec::new(),
                        key: None,
                        seen: BTreeSet::new(),
                        column: usize::MAX,
                        anchor,
                        flow,
                    },
                    line,
                )
            }
            Event::SequenceStart(style, anchor, _) => {
                self.flush();
                let flow = style == StructureStyle::Flow;
                let column = span.start.col();
                self.open(
                    Open::List {
                        values: Vec::new(),
                        column,
                        anchor,
                        flow,
                    },
                    line,
                )
            }
            Event::MappingEnd | Event::SequenceEnd => self.close(line),
            Event::Alias(id) => {
                let (value, size) = self
                    .anchors
                    .get(&id)
                    .cloned()
                    .ok_or_else(|| bad(line, "an alias within its own anchor"))?;
                self.count(size, line)?;
                self.flush_all();
                self.place(value, line, 0)
            }
            Event::UnresolvedAlias(_) => Err(bad(line, "an alias without an anchor")),
            Event::DocumentEnd => {
                self.end_document();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, nodes: usize, line: usize) -> Result<(), Error> {
        self.nodes += nodes;
        if self.nodes > crate::NODES_MAX {
            return Err(bad(
                line,
                "it has too many values once aliases are expanded",
            ));
        }
        Ok(())
    }

    fn open(&mut self, open: Open, line: usize) -> Result<(), Error> {
        if self.stack.len() >= crate::DEPTH_MAX {
            return Err(bad(line, "it is nested too deeply"));
        }
        if matches!(self.stack.last(), Some(Open::Map { key: None, .. })) {
            return Err(bad(line, "a key is not a string"));
        }
        self.count(1, line)?;
        self.stack.push(open);
        Ok(())
    }

    fn comment(&mut self, text: &str, placement: Placement, column: usize) -> Result<(), Error> {
        let text = text.trim_end_matches('\r').to_owned();
        if placement == Placement::Right {
            match self.stack.last_mut() {
                // Behind a value: it goes before the item it stands beside.
                Some(Open::Map {
                    items,
                    key: None,
                    flow: false,
                    ..
                }) if !items.is_empty() => {
                    items.insert(items.len() - 1, Item::comment(&text, true));
                    return Ok(());
                }
                Some(Open::List {
                    values,
                    flow: false,
                    ..
                }) if !values.is_empty() => {
                    values.insert(values.len() - 1, Value::comment(&text, true));
                    return Ok(());
                }
                _ => {}
            }
        }
        self.pending.push(Pending {
            text,
            column,
            inline: false,
        });
        Ok(())
    }

    /// Puts waiting comments into the innermost open collection, before what comes next in it.
    fn flush(&mut self) {
        // Comments between a key and its value wait for a place inside the value.
        if matches!(
            self.stack.last(),
            None | Some(Open::Map { key: Some(_), .. })
        ) {
            return;
        }
        let waiting = std::mem::take(&mut self.pending);
        self.put(waiting);
    }

    /// The same before a single value: comments between a key and it come before the entry.
    fn flush_all(&mut self) {
        let waiting = std::mem::take(&mut self.pending);
        self.put(waiting);
    }

    fn put(&mut self, comments: Vec<Pending>) {
        match self.stack.last_mut() {
            Some(Open::Map { items, .. }) => {
                items.extend(
                    comments
                        .into_iter()
                        .map(|comment| Item::comment(&comment.text, comment.inline)),
                );
            }
            Some(Open::List { values, .. }) => {
                values.extend(
                    comments
                        .into_iter()
                        .map(|comment| Value::comment(&comment.text, comment.inline)),
                );
            }
            None => self.pending.extend(comments),
        }
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        span: &Span,
    ) -> Result<(), Error> {
        let line = span.start.line();
        self.count(weight(text.len()), line)?;
        let tag = tag.and_then(tag_name);
        let value = match (tag.as_deref(), style) {
            (Some("merge"), _) => Value::text(text),
            (Some("binary"), _) => {
                let clean: String = text.chars().filter(|c| !c.is_whitespace()).collect();
                let bytes = base64::engine::general_purpose::STANDARD.decode(clean);
                Value::text(bytes.map_err(|_| bad(line, "!!binary is not base64"))?)
            }
            (Some(tag), _) => yaml_scalar::forced(tag, text)
                .ok_or_else(|| bad(line, "a value does not fit its tag"))?,
            (None, ScalarStyle::Plain) => yaml_scalar::resolve(text),
            (None, _) => Value::text(text),
        };
        if let Some(Open::Map { key: None, .. }) = self.stack.last() {
            self.flush();
        }
        if let Some(Open::Map {
            key: key @ None,
            column,
            ..
        }) = self.stack.last_mut()
        {
            *column = (*column).min(span.start.col());
            if anchor > 0 {
                self.anchors.insert(anchor, (value.clone(), 1));
            }
            *key = Some(match value {
                Value::Str(_) => Key::Name(text.to_owned()),
                _ => Key::NotText(text.to_owned()),
            });
            return Ok(());
        }
        self.flush_all();
        self.place(value, line, anchor)
    }

    fn close(&mut self, line: usize) -> Result<(), Error> {
        let parent = match self.stack.len().checked_sub(2).map(|at| &self.stack[at]) {
            Some(Open::Map { column, .. }) => Some(*column),
            _ => None,
        };
        let inside = |comment: &Pending| match self.stack.last() {
            Some(Open::Map { column, flow, .. }) => *flow || comment.column >= *column,
            // A list that is not indented leaves the comments of its column to the map around it.
            Some(Open::List { column, flow, .. }) => {
                *flow || (comment.column >= *column && parent != Some(*column))
            }
            None => false,
        };
        let count = self
            .pending
            .iter()
            .take_while(|comment| inside(comment))
            .count();
        let own = self.pending.drain(..count).collect();
        self.put(own);
        let (value, anchor) = match self.stack.pop() {
            Some(Open::Map { items, anchor, .. }) => (Value::Map(items), anchor),
            Some(Open::List { values, anchor, .. }) => (Value::List(values), anchor),
            None => return Err(bad(line, "the syntax is wrong")),
        };
        self.place(value, line, anchor)
    }

    /// Gives a finished value to the collection around it, or makes it the document.
    fn place(&mut self, value: Value, line: usize, anchor: usize) -> Result<(), Error> {
        if anchor > 0 {
            let size = size(&value);
            self.count(size, line)?;
            self.anchors.insert(anchor, (value.clone(), size));
        }
        let first = self.docs.is_empty();
        match self.stack.last_mut() {
            Some(Open::Map {
                items, key, seen, ..
            }) => {
                let key = key
                    .take()
                    .ok_or_else(|| bad(line, "a key is not a string"))?;
                if let Key::Name(name) | Key::NotText(name) = &key
                    && first
                    && !seen.insert(name.clone())
                {
                    return Err(bad(line, "a key is there twice"));
                }
                items.push(Item { key, value });
            }
            Some(Open::List { values, .. }) => values.push(value),
            None => match value {
                Value::Map(items) => self.docs.push(items),
                Value::Null => self.docs.push(Vec::new()),
                _ => return Err(bad(line, "the top level must be a map")),
            },
        }
        Ok(())
    }

    fn end_document(&mut self) {
        self.anchors.clear();
        let waiting = std::mem::take(&mut self.pending);
        if let Some(doc) = self.docs.last_mut() {
            doc.extend(
                waiting
                    .into_iter()
                    .map(|comment| Item::comment(&comment.text, false)),
            );
        }
    }
}

fn tag_name(tag: &Tag) -> Option<String> {
    let name = tag.suffix_in_namespace("tag:yaml.org,2002:")?;
    // Tags of one's own are dropped, as the reference does.
    [
        "str",
        "int",
        "float",
        "bool",
        "null",
        "binary",
        "timestamp",
        "merge",
    ]
    .contains(&&*name)
    .then(|| name.into_owned())
}

/// Long strings count for more, so that aliases cannot multiply them without end.
fn weight(bytes: usize) -> usize {
    1 + bytes / BYTES_PER_NODE
}

fn size(value: &Value) -> usize {
    match value {
        Value::Map(items) => {
            1 + items
                .iter()
                .map(|item| size(&item.value) + item.name().map_or(0, |name| weight(name.len())))
                .sum::<usize>()
        }
        Value::List(values) => 1 + values.iter().map(size).sum::<usize>(),
        Value::Str(bytes) => weight(bytes.len()),
        _ => 1,
    }
}
