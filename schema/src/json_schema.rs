//! JSON Schemas of the kinds, for editors and other tools. Generated from the Rust types; the reader is the judge.

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde_json::{Map, Value};

use crate::kind::{Alert, Builder, Cache, Check, Fleet, Host, Kind, Secret};

/// Kinds that have a schema: those that are built.
pub const KINDS: [Kind; 7] = [
    Kind::Fleet,
    Kind::Host,
    Kind::Check,
    Kind::Alert,
    Kind::Cache,
    Kind::Secret,
    Kind::Builder,
];

/// The schema of a kind; `None` for one that is not built yet.
#[must_use]
pub fn of(kind: Kind) -> Option<Value> {
    match kind {
        Kind::Fleet => Some(schema::<Fleet>(kind)),
        Kind::Host => Some(schema::<Host>(kind)),
        Kind::Check => Some(schema::<Check>(kind)),
        Kind::Alert => Some(schema::<Alert>(kind)),
        Kind::Cache => Some(schema::<Cache>(kind)),
        Kind::Secret => Some(schema::<Secret>(kind)),
        Kind::Builder => Some(schema::<Builder>(kind)),
        Kind::Container | Kind::Rollout | Kind::Receiver => None,
    }
}

/// The file that holds a kind's schema: `host.json`.
#[must_use]
pub fn file_name(kind: Kind) -> String {
    format!("{}.json", kind.word().to_lowercase())
}

/// As the file has it: with a last line end, so that editors leave it alone.
#[must_use]
pub fn text(kind: Kind) -> Option<String> {
    let schema = of(kind)?;
    Some(format!("{schema:#}\n"))
}

fn schema<T: JsonSchema>(kind: Kind) -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let schema: Schema = generator.into_root_schema_for::<T>();
    let mut value = schema.to_value();
    without_null(&mut value);
    if let Value::Object(object) = &mut value {
        object.insert("title".to_owned(), Value::String(format!("trueup {kind}")));
    }
    value
}

/// A field that may be left out may not be empty: `ssh:` with nothing behind it is an error for the reader too.
fn without_null(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(without_null),
        Value::Object(object) => {
            object.values_mut().for_each(without_null);
            plain_type(object);
            plain_any_of(object);
            if object.get("default") == Some(&Value::Null) {
                object.remove("default");
            }
        }
        _ => {}
    }
}

/// `type: [string, null]` becomes `type: string`.
fn plain_type(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|t| t != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
}

/// `anyOf: [{$ref}, {type: null}]` becomes the reference.
fn plain_any_of(object: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = object.get_mut("anyOf") else {
        return;
    };
    choices.retain(|choice| choice.get("type").is_none_or(|t| t != "null"));
    if let [Value::Object(only)] = choices.as_slice() {
        let only = only.clone();
        object.remove("anyOf");
        for (key, value) in only {
            object.entry(key).or_insert(value);
        }
    }
}
