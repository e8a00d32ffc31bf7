//! Changing single values in a YAML file that was formatted by somebody else, so that every other byte stays. Where the
//! shape changed too, or anchors and tags are in the way, the answer is `None` and the file is printed anew.

use std::collections::BTreeMap;
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle};

use crate::flat;
use crate::store::yaml_write;
use crate::value::{Item, Value};

/// A single value in the text.
struct Leaf {
    range: Range<usize>,
    is_block: bool,
    in_sops: bool,
}

/// The text with the values and the metadata of `new`; `old` is what the text says now.
pub(crate) fn splice(
    text: &str,
    old: (&[Vec<Item>], &[Item]),
    new: (&[Vec<Item>], &[Item]),
) -> Option<String> {
    if outline(old.0) != outline(new.0) {
        return None;
    }
    let all = leaves(text)?;
    let (meta, content): (Vec<Leaf>, Vec<Leaf>) = all.into_iter().partition(|leaf| leaf.in_sops);
    let (was, is) = (values(old.0), values(new.0));
    if content.len() != was.len() || was.len() != is.len() {
        return None;
    }
    let mut edits = Vec::new();
    for (leaf, (was, is)) in content.into_iter().zip(was.into_iter().zip(is)) {
        change(leaf, was, is, &mut edits)?;
    }
    metadata(text, meta, old, new.1, &mut edits)?;
    edits.sort_by_key(|(range, _)| range.start);
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for (range, with) in edits {
        out.push_str(text.get(at..range.start)?);
        out.push_str(&with);
        at = range.end;
    }
    out.push_str(text.get(at..)?);
    Some(out)
}

type Edits = Vec<(Range<usize>, String)>;

fn change(leaf: Leaf, was: &Value, is: &Value, edits: &mut Edits) -> Option<()> {
    if was.canonical() == is.canonical() && was.type_name() == is.type_name() {
        return Some(());
    }
    if leaf.is_block {
        return None;
    }
    edits.push((leaf.range, yaml_write::one_line(is)?));
    Some(())
}

/// The same keys: their values are exchanged one by one. Other keys: the whole block is printed anew.
fn metadata(
    text: &str,
    leaves: Vec<Leaf>,
    old: (&[Vec<Item>], &[Item]),
    new: &[Item],
    edits: &mut Edits,
) -> Option<()> {
    let was = flat::flatten(old.1);
    let is: BTreeMap<String, Value> = flat::flatten(new).into_iter().collect();
    let blocks = blocks(text);
    if blocks.len() != old.0.len() {
        return None;
    }
    let keys_are_the_same =
        was.len() == is.len() && was.iter().all(|(key, _)| is.contains_key(key));
    let armor_changed = was
        .iter()
        .any(|(key, value)| key.ends_with("__map_enc") && is.get(key) != Some(value));
    if keys_are_the_same && !armor_changed && leaves.len() == was.len() * blocks.len() {
        for (leaf, (key, value)) in leaves.into_iter().zip(was.iter().cycle()) {
            change(leaf, value, is.get(key)?, edits)?;
        }
        return Some(());
    }
    let block = yaml_write::write(
        &[vec![Item::named("sops", Value::Map(new.to_vec()))]],
        yaml_write::Inline::Keep,
    );
    let block = if text.contains("\r\n") {
        block.replace('\n', "\r\n")
    } else {
        block
    };
    edits.extend(blocks.into_iter().map(|range| (range, block.clone())));
    Some(())
}

/// The lines of each top-level `sops:`.
fn blocks(text: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let (mut at, mut open) = (0, false);
    for line in text.split_inclusive('\n') {
        let end = at + line.len();
        if line.trim_end() == "sops:" {
            found.push(at..end);
            open = true;
        } else if open && (line.starts_with([' ', '\t', '\r', '\n']) || line.starts_with("- ")) {
            if let Some(range) = found.last_mut() {
                range.end = end;
            }
        } else {
            open = false;
        }
        at = end;
    }
    found
}

fn leaves(text: &str) -> Option<Vec<Leaf>> {
    // (is a map, its next scalar is a key)
    let mut stack: Vec<(bool, bool)> = Vec::new();
    let mut in_sops = false;
    let mut found = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.ok()?;
        let tagged =
            event.anchor_id().is_some_and(|id| id > 0) || event.tag().is_some() || event.is_alias();
        if tagged {
            return None;
        }
        match event {
            Event::Scalar(name, style, ..) => {
                if let Some((true, is_key @ true)) = stack.last_mut() {
                    *is_key = false;
                    if stack.len() == 1 {
                        in_sops = name == "sops";
                    }
                    continue;
                }
                let is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                found.push(Leaf {
                    range: span.byte_range()?,
                    is_block,
                    in_sops,
                });
                value_done(&mut stack);
            }
            Event::MappingStart(..) => stack.push((true, true)),
            Event::SequenceStart(..) => stack.push((false, false)),
            Event::MappingEnd | Event::SequenceEnd => {
                stack.pop();
                value_done(&mut stack);
            }
            _ => {}
        }
    }
    Some(found)
}

fn value_done(stack: &mut [(bool, bool)]) {
    if let Some((true, is_key)) = stack.last_mut() {
        *is_key = true;
    }
}

/// Everything but the single values.
fn outline(docs: &[Vec<Item>]) -> Vec<String> {
    let mut out = Vec::new();
    for doc in docs {
        out.push("document".to_owned());
        outline_items(doc, &mut out);
    }
    out
}

fn outline_items(items: &[Item], out: &mut Vec<String>) {
    for item in items {
        out.push(format!("{:?}", item.key));
        outline_value(&item.value, out);
    }
    out.push("end".to_owned());
}

fn outline_value(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Map(items) => outline_items(items, out),
        Value::List(values) => {
            values.iter().for_each(|value| outline_value(value, out));
            out.push("end".to_owned());
        }
        Value::Comment(comment) => out.push(comment.text.to_string()),
        _ => out.push("value".to_owned()),
    }
}

fn values(docs: &[Vec<Item>]) -> Vec<&Value> {
    let mut out = Vec::new();
    docs.iter()
        .flatten()
        .for_each(|item| collect(&item.value, &mut out));
    out
}

fn collect<'a>(value: &'a Value, out: &mut Vec<&'a Value>) {
    match value {
        Value::Map(items) => items.iter().for_each(|item| collect(&item.value, out)),
        Value::List(values) => values.iter().for_each(|value| collect(value, out)),
        Value::Comment(_) => {}
        leaf => out.push(leaf),
    }
}
