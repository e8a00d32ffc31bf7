//! Documents: what they show is what the readers take, what they link to is there, and the reference of the manifests is
//! written from the JSON Schemas. `TRUEUP_ACCEPT=1` writes that reference anew. It judges no prose.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use trueup_schema::kind::{Confirm, Delivery, DiscoverFrom, Mode, Reboot, Signatures};
use trueup_schema::{json_schema, manifest};

/// Where people read.
const PAGES: [&str; 7] = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/guide.md",
    "docs/operations.md",
    "docs/manifests.md",
    "docs/ARCHITECTURE.md",
    "docs/SECURITY.md",
];
const REFERENCE: &str = "docs/manifests.md";
/// Added to an example that shows no fleet of its own.
const FLEET: &str = "apiVersion: trueup/v1alpha1\nkind: Fleet\nmetadata: {name: home}\nspec: {defaults: {system: x86_64-linux}}\n";
/// Words that a schema has, so that editors know them, and this version has not.
const NOT_YET: [(&str, &[&str]); 6] = [
    ("Confirm", Confirm::NOT_YET),
    ("Delivery", Delivery::NOT_YET),
    ("DiscoverFrom", DiscoverFrom::NOT_YET),
    ("Mode", Mode::NOT_YET),
    ("Reboot", Reboot::NOT_YET),
    ("Signatures", Signatures::NOT_YET),
];
/// A type inside a type inside a type: deeper than any kind goes.
const DEPTH_MAX: usize = 8;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Fenced blocks of one language, with the line that each begins at.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String, bool)> = None;
    for (n, line) in text.lines().enumerate() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(word)) => open = Some((n + 1, String::new(), word.trim() == language)),
            (Some(_), Some(_)) => {
                if let Some((at, body, true)) = open.take() {
                    found.push((at, body));
                }
            }
            (Some((_, body, _)), None) => {
                body.push_str(line);
                body.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

/// The heading as a link names it: small letters, blanks to `-`, all other signs dropped.
fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>()
        .to_lowercase()
        .trim()
        .replace(' ', "-")
}

fn anchors(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        let title = line.trim_start_matches('#');
        if !fenced && title.len() < line.len() && title.starts_with(' ') {
            found.push(anchor(title));
        }
    }
    found
}

#[test]
fn every_yaml_example_is_one_that_trueup_takes() {
    let mut seen = BTreeMap::from([("manifests", 0), ("settings", 0)]);
    for name in PAGES {
        for (line, body) in blocks(&page(name), "yaml") {
            let at = format!("{name}:{line}");
            if !body.contains("apiVersion:") {
                let fragment = trueup::settings::parse(Path::new(name), &body)
                    .unwrap_or_else(|e| panic!("{at}: {e}"));
                trueup::settings::validate(fragment).unwrap_or_else(|e| panic!("{at}: {e}"));
                *seen.entry("settings").or_default() += 1;
                continue;
            }
            let own = body.contains("kind: Fleet");
            let mut files = vec![("fleet/example.yaml".to_owned(), body.into_bytes())];
            if !own {
                files.push(("fleet/fleet.yaml".to_owned(), FLEET.into()));
            }
            if let Err(problems) = manifest::resolve(&files) {
                panic!(
                    "{at}\n{}",
                    manifest::render(&problems, manifest::Style::Plain)
                );
            }
            *seen.entry("manifests").or_default() += 1;
        }
    }
    assert!(seen["manifests"] >= 6 && seen["settings"] >= 2, "{seen:?}");
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    for name in PAGES {
        let text = page(name);
        for (n, line) in text.lines().enumerate() {
            for target in line
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split(')').next())
            {
                if target.contains("://") {
                    continue;
                }
                let (file, wanted) = target.split_once('#').unwrap_or((target, ""));
                let path = match file {
                    "" => root().join(name),
                    file => root().join(name).parent().unwrap().join(file),
                };
                assert!(path.exists(), "{name}:{}: {target} is not there", n + 1);
                if !wanted.is_empty() {
                    let there = anchors(&fs::read_to_string(&path).unwrap());
                    assert!(
                        there.iter().any(|a| a == wanted),
                        "{name}:{}: {target}: {there:?}",
                        n + 1
                    );
                }
            }
        }
    }
}

/// Errors send people to a page, and within it to a heading: `docs/guide.md, "The settings"`.
#[test]
fn every_page_that_an_error_names_has_the_heading_that_it_names() {
    let mut seen = 0;
    for dir in ["controller", "agent", "schema"] {
        for entry in walkdir::WalkDir::new(root().join(dir))
            .into_iter()
            .map(Result::unwrap)
        {
            if entry.path().extension().is_none_or(|x| x != "rs") {
                continue;
            }
            let text = fs::read_to_string(entry.path()).unwrap();
            for rest in text.split("docs/").skip(1) {
                let Some(end) = rest.find(".md") else {
                    continue;
                };
                if !rest[..end]
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_/".contains(&b))
                {
                    continue;
                }
                let file = format!("docs/{}.md", &rest[..end]);
                let there = anchors(&page(&file));
                seen += 1;
                let after = rest[end + 3..]
                    .trim_start_matches([',', ' '])
                    .replace("\\\"", "\"");
                if let Some(heading) = after.strip_prefix('"').and_then(|q| q.split('"').next())
                    && !heading.is_empty()
                    && heading.len() < 60
                    && heading.starts_with(|c: char| c.is_ascii_uppercase())
                {
                    let place = entry.path().display();
                    assert!(
                        there.contains(&anchor(heading)),
                        "{place} names {file}, \"{heading}\""
                    );
                }
            }
        }
    }
    assert!(seen >= 3, "no error names a page any more");
}

/// A path in a map that is not there sends the reader astray.
#[test]
fn every_path_that_the_architecture_names_is_there() {
    let text = page("docs/ARCHITECTURE.md");
    let mut seen = 0;
    for span in text.split('`').skip(1).step_by(2) {
        let plain = span
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
        if !plain || span.starts_with('/') || !(span.contains('/') || span.ends_with(".rs")) {
            continue;
        }
        seen += 1;
        assert!(
            root().join(span).exists(),
            "docs/ARCHITECTURE.md names `{span}`"
        );
    }
    assert!(seen > 25, "{seen}");
}

#[test]
fn the_reference_of_the_manifests_is_what_the_schemas_say() {
    let mut text = "# The manifests, field by field\n\nWritten from the JSON Schemas (`TRUEUP_ACCEPT=1 cargo test -p trueup-tests --test fast \
         manifests`). Examples: [guide.md](guide.md#the-manifests).\n"
        .to_owned();
    for kind in json_schema::KINDS {
        let schema = json_schema::of(kind).unwrap();
        text.push_str(&format!(
            "\n## {kind}\n\n{}\n\n| field | value | |\n| --- | --- | --- |\n",
            schema["description"].as_str().unwrap_or_default()
        ));
        rows(&schema, &schema["properties"]["spec"], "", 0, &mut text);
    }
    assert!(
        trueup_tests::golden::difference(&root().join(REFERENCE), &text).is_none(),
        "{REFERENCE} is stale: TRUEUP_ACCEPT=1 writes it anew"
    );
}

fn resolved<'a>(schema: &'a Value, mut node: &'a Value) -> &'a Value {
    while let Some(name) = node["$ref"].as_str() {
        node = schema
            .pointer(name.trim_start_matches('#'))
            .expect("a definition");
    }
    node
}

fn rows(schema: &Value, node: &Value, prefix: &str, depth: usize, out: &mut String) {
    assert!(depth < DEPTH_MAX, "{prefix}");
    let Some(fields) = resolved(schema, node)["properties"].as_object() else {
        return;
    };
    for (name, field) in fields {
        let path = format!("{prefix}{name}");
        let inner = resolved(schema, field);
        let about = field["description"]
            .as_str()
            .or(inner["description"].as_str());
        let about = about
            .unwrap_or_default()
            .replace('\n', " ")
            .replace('|', "\\|");
        let words = inner["oneOf"]
            .as_array()
            .filter(|w| w.iter().all(|w| w["const"].is_string()));
        let (value, meaning) = match words {
            Some(words) => {
                let one = |w: &Value| format!("`{}`", w["const"].as_str().unwrap_or_default());
                let kind = field["$ref"].as_str().and_then(|r| r.rsplit('/').next());
                let later = NOT_YET
                    .iter()
                    .find(|(k, _)| Some(*k) == kind)
                    .map_or(&[][..], |(_, w)| w);
                let told = |w: &Value| {
                    if later.iter().any(|l| w["const"] == **l) {
                        return format!("{}: not yet.", one(w));
                    }
                    format!(
                        "{}: {}",
                        one(w),
                        w["description"].as_str().unwrap_or_default()
                    )
                };
                (
                    words.iter().map(one).collect::<Vec<_>>().join(", "),
                    format!(" {}", words.iter().map(told).collect::<Vec<_>>().join(" ")),
                )
            }
            None => (value_of(schema, field, inner), String::new()),
        };
        out.push_str(&format!("| `{path}` | {value} | {about}{meaning} |\n"));
        // What the fleet says for many hosts is what a host says of itself: told there.
        if field["$ref"] == "#/$defs/HostDefaults" {
            continue;
        }
        rows(schema, field, &format!("{path}."), depth + 1, out);
        rows(
            schema,
            &inner["items"],
            &format!("{path}[]."),
            depth + 1,
            out,
        );
    }
}

fn value_of(schema: &Value, field: &Value, inner: &Value) -> String {
    match field["$ref"]
        .as_str()
        .map(|r| r.rsplit('/').next().unwrap_or_default())
    {
        Some("HostDefaults") => return "as a Host's `spec`".to_owned(),
        Some("Selector") => return "selector".to_owned(),
        Some("Duration") => return "duration".to_owned(),
        Some("Labels") => return "map of text".to_owned(),
        _ => {}
    }
    match inner["type"].as_str() {
        Some("string") => "text".to_owned(),
        Some("integer") => "number".to_owned(),
        Some("boolean") => "`true`, `false`".to_owned(),
        Some("array") => match resolved(schema, &inner["items"])["type"].as_str() {
            Some("object") => "list".to_owned(),
            _ => "list of text".to_owned(),
        },
        _ => String::new(),
    }
}
