//! Metadata of flat formats: `age__list_0__map_enc` to nested values and back.

use crate::error::Error;
use crate::value::{Item, Value};

/// Far more recipients than any file has; bounds what one index can allocate.
const LIST_MAX: usize = 10_000;

enum Step<'a> {
    Map(&'a str),
    List(usize),
}

/// Nested values to (flat key, scalar) pairs, in order.
pub(crate) fn flatten(items: &[Item]) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    for item in items {
        if let Some(name) = item.name() {
            flatten_value(name, &item.value, &mut out);
        }
    }
    out
}

fn flatten_value(prefix: &str, value: &Value, out: &mut Vec<(String, Value)>) {
    match value {
        Value::Map(items) => {
            for item in items {
                if let Some(name) = item.name() {
                    flatten_value(&format!("{prefix}__map_{name}"), &item.value, out);
                }
            }
        }
        Value::List(values) => {
            for (index, value) in values.iter().enumerate() {
                flatten_value(&format!("{prefix}__list_{index}"), value, out);
            }
        }
        leaf => out.push((prefix.to_owned(), leaf.clone())),
    }
}

/// The way back. Holes in lists and keys that are both a value and a container are errors.
pub(crate) fn unflatten(pairs: &[(String, Value)]) -> Result<Vec<Item>, Error> {
    if pairs.len() > LIST_MAX {
        return Err(Error::metadata("there are too many flattened keys"));
    }
    let mut root = Value::Map(Vec::new());
    // Lists fill in any order of the file but without holes: lower indices first.
    let mut sorted: Vec<(Vec<Step<'_>>, &Value)> = pairs
        .iter()
        .map(|(key, value)| (steps(key), value))
        .collect();
    sorted.sort_by_key(|(steps, _)| {
        steps
            .iter()
            .map(|step| {
                if let Step::List(index) = step {
                    *index
                } else {
                    0
                }
            })
            .collect::<Vec<_>>()
    });
    for (steps, value) in sorted {
        insert(&mut root, &steps, value)?;
    }
    match root {
        Value::Map(items) => Ok(items),
        _ => Ok(Vec::new()),
    }
}

fn steps(key: &str) -> Vec<Step<'_>> {
    let mut parts = key.split("__");
    let mut steps = vec![Step::Map(parts.next().unwrap_or_default())];
    for part in parts {
        match (
            part.strip_prefix("map_"),
            part.strip_prefix("list_")
                .and_then(|index| index.parse().ok()),
        ) {
            (Some(name), _) => steps.push(Step::Map(name)),
            (None, Some(index)) => steps.push(Step::List(index)),
            (None, None) => steps.push(Step::Map(part)),
        }
    }
    steps
}

fn insert(node: &mut Value, steps: &[Step<'_>], value: &Value) -> Result<(), Error> {
    let clash = || Error::metadata("a flattened key is both a value and a container");
    let Some((step, rest)) = steps.split_first() else {
        *node = value.clone();
        return Ok(());
    };
    if steps.len() > crate::DEPTH_MAX {
        return Err(Error::metadata("flattened keys are nested too deeply"));
    }
    let empty = match rest.first() {
        None => Value::Null,
        Some(Step::Map(_)) => Value::Map(Vec::new()),
        Some(Step::List(_)) => Value::List(Vec::new()),
    };
    let child = match (step, node) {
        (Step::Map(name), Value::Map(items)) => {
            let at = items
                .iter()
                .position(|item| item.name() == Some(*name))
                .unwrap_or_else(|| {
                    items.push(Item::named(*name, empty));
                    items.len() - 1
                });
            &mut items[at].value
        }
        (Step::List(index), Value::List(values)) => {
            if *index > values.len() || *index >= LIST_MAX {
                return Err(Error::metadata("a flattened list has a hole"));
            }
            if *index == values.len() {
                values.push(empty);
            }
            &mut values[*index]
        }
        _ => return Err(clash()),
    };
    if rest.is_empty() && !matches!(child, Value::Null) {
        return Err(clash());
    }
    insert(child, rest, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flattening_is_undone_whatever_the_order_of_lines() {
        let mut pairs = vec![
            ("age__list_0__map_enc".to_owned(), Value::text("e0")),
            ("age__list_1__map_enc".to_owned(), Value::text("e1")),
            ("mac".to_owned(), Value::text("m")),
        ];
        let there = unflatten(&pairs).expect("regular");
        assert!(flatten(&there).iter().all(|pair| pairs.contains(pair)));
        pairs.reverse();
        assert_eq!(unflatten(&pairs).expect("regular").len(), 2);
    }

    #[test]
    fn holes_and_clashes_are_refused() {
        assert!(unflatten(&[("a__list_1".to_owned(), Value::Null)]).is_err());
        let clash = [
            ("a".to_owned(), Value::text("x")),
            ("a__map_b".to_owned(), Value::text("y")),
        ];
        assert!(unflatten(&clash).is_err());
    }
}
