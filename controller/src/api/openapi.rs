//! The API's description, made from the table of routes and the types that travel: it can't say what is not so.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::error::ErrorBody;
use super::route::{ROUTES, Route, Shape};

/// Where schemas lie in the document.
const SCHEMAS: &str = "/components/schemas";

/// OpenAPI 3.1, whose schemas are JSON Schema as the kinds' are.
#[must_use]
pub fn openapi() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.definitions_path = SCHEMAS.into();
        s.meta_schema = None;
    });
    let mut generator = SchemaGenerator::new(settings);
    let mut paths = Map::new();
    for route in ROUTES {
        let method = if route.post { "post" } else { "get" };
        let operation = operation(route, &mut generator);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[method] = operation;
    }
    let schemas: Map<String, Value> = generator.take_definitions(true).into_iter().collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "trueup",
            "description": "The controller's API: HTTP/1.1 on a Unix socket (/run/trueup/api.sock). Whoever may open the \
                            socket is an operator; the kernel says who it is.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://trueup" }],
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut parameters = Vec::new();
    for part in route.path.split('/') {
        if let Some(name) = part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
            parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
        }
    }
    for (name, required, says) in route.query {
        parameters.push(json!({
            "name": name, "in": "query", "required": required, "description": says, "schema": { "type": "string" },
        }));
    }
    let name = format!("{:?}", route.op);
    let mut operation = json!({
        "operationId": format!("{}{}", name[..1].to_lowercase(), &name[1..]),
        "summary": route.summary,
        "responses": {
            "200": { "description": "done", "content": content(route.answer, generator) },
            "default": {
                "description": "not done: `error.class` says who has to act",
                "content": { "application/json": { "schema": generator.subschema_for::<ErrorBody>() } },
            },
        },
    });
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Shape::Json(_) = route.body {
        operation["requestBody"] =
            json!({ "required": true, "content": content(route.body, generator) });
    }
    operation
}

fn content(shape: Shape, generator: &mut SchemaGenerator) -> Value {
    match shape {
        Shape::Json(schema) => json!({ "application/json": { "schema": schema(generator) } }),
        Shape::Text => json!({ "text/plain": { "schema": { "type": "string" } } }),
        Shape::None => json!({}),
    }
}
