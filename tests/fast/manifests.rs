//! Manifests: each fixture of `fixtures/manifests` against what the reader says of it, word for word, and against the
//! JSON Schemas. `TRUEUP_ACCEPT=1` writes the golden files and the schemas anew; read the difference before you commit it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use trueup::secrets::{Found, Repository};
use trueup_schema::{
    json_schema,
    kind::{FleetManifests, Kind},
    manifest::{self, Problem, ProblemKind, SchemaSees, Style, limits},
};
use trueup_tests::golden;

/// Added to a fixture that has no fleet of its own, so that most of them are one short document.
const FLEET: &str = "apiVersion: trueup/v1alpha1\nkind: Fleet\nmetadata: {name: home}\nspec: {defaults: {system: x86_64-linux}}\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What is in the repository beside the manifests: `fixtures/manifests/sources`.
fn source(name: &str) -> Found {
    match fs::read(root().join("fixtures/manifests/sources").join(name)) {
        Ok(_) if name.contains("untracked") => Found::Untracked,
        Ok(bytes) => Found::File(bytes),
        Err(_) => Found::Missing,
    }
}

/// As `trueup validate` and the controller read them: with the encrypted files.
fn resolve(files: &Files) -> Result<FleetManifests, Vec<Problem>> {
    manifest::resolve_with(files, Some(&Repository::new(&source)))
}

/// Files as the reader gets them.
type Files = Vec<(String, Vec<u8>)>;

fn with_fleet(name: &str, bytes: Vec<u8>) -> Files {
    let own = bytes.windows(11).any(|w| w == b"kind: Fleet") || name == "no-fleet";
    let mut files = vec![(format!("fleet/{name}.yaml"), bytes)];
    if !own {
        files.push(("fleet/fleet.yaml".to_owned(), FLEET.into()));
    }
    files
}

/// Fixtures whose size would be a burden to the repository.
fn made() -> Vec<(&'static str, Files)> {
    let many_documents = "---\na\n".repeat(limits::DOCUMENTS_MAX + 1);
    let many_values = format!("kind: Host\nspec: [{}]\n", "1,".repeat(limits::NODES_MAX));
    let many_files = (0..=limits::FILES_MAX)
        .map(|n| (format!("{n}.yaml"), Vec::new()))
        .collect();
    vec![
        (
            "file-too-large",
            with_fleet("file-too-large", vec![b'#'; limits::FILE_BYTES_MAX + 1]),
        ),
        (
            "too-many-documents",
            with_fleet("too-many-documents", many_documents.into()),
        ),
        (
            "too-many-values",
            with_fleet("too-many-values", many_values.into()),
        ),
        ("too-many-files", many_files),
    ]
}

fn fixtures(folder: &str) -> BTreeMap<String, Files> {
    let folder = root().join("fixtures/manifests").join(folder);
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(&folder).expect("the fixtures are there") {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "yaml") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            all.insert(name.clone(), with_fleet(&name, fs::read(&path).unwrap()));
        }
    }
    all
}

fn bad() -> BTreeMap<String, (Files, Vec<Problem>)> {
    let made = made()
        .into_iter()
        .map(|(name, files)| (name.to_owned(), files));
    let all = fixtures("bad").into_iter().chain(made);
    all.map(|(name, files)| {
        let problems = resolve(&files).expect_err(&name);
        (name, (files, problems))
    })
    .collect()
}

/// Compares with the golden file, or writes it.
fn golden(path: &Path, found: &str, wrong: &mut Vec<String>) {
    wrong.extend(golden::difference(path, found));
}

#[test]
fn every_bad_manifest_is_answered_word_for_word() {
    let folder = root().join("fixtures/manifests/bad");
    let mut wrong = Vec::new();
    let all = bad();
    for (name, (_, problems)) in &all {
        let text = format!(
            "{}{}\n",
            manifest::render(problems, Style::Plain),
            manifest::count(problems)
        );
        golden(&folder.join(format!("{name}.out")), &text, &mut wrong);
    }
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(all.contains_key(&name), "{} has no fixture", path.display());
    }
    assert!(all.len() >= 60, "{} fixtures", all.len());
    assert!(
        wrong.is_empty(),
        "TRUEUP_ACCEPT=1 writes them anew\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_rule_has_a_fixture_that_breaks_it() {
    let broken: BTreeSet<ProblemKind> = bad()
        .values()
        .flat_map(|(_, problems)| problems)
        .map(|p| p.kind)
        .collect();
    let never: Vec<_> = ProblemKind::ALL
        .iter()
        .filter(|kind| !broken.contains(kind))
        .collect();
    assert!(never.is_empty(), "no fixture breaks {never:?}");
}

#[test]
fn a_file_with_several_problems_names_them_all() {
    let several = bad()
        .values()
        .filter(|(_, problems)| problems.len() >= 2)
        .count();
    assert!(several >= 10, "{several} fixtures have several problems");
    let (_, problems) = &bad()["everything-at-once"];
    let kinds: BTreeSet<_> = problems.iter().map(|p| p.kind).collect();
    assert!(kinds.len() >= 8, "{kinds:?}");
}

#[test]
fn each_problem_points_into_its_line() {
    for (name, (_, problems)) in bad() {
        for p in problems.iter().filter(|p| p.line > 0) {
            let length = p.excerpt.chars().count();
            assert!(p.column >= 1 && p.column <= length + 1, "{name}: {p:?}");
            assert!(
                !p.message.is_empty() && !p.message.ends_with('.'),
                "{name}: {p:?}"
            );
        }
    }
}

#[test]
fn no_answer_steers_the_terminal() {
    for (name, (_, problems)) in bad() {
        let text = manifest::render(&problems, Style::Plain);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{name}");
        let coloured = manifest::render(&problems, Style::Coloured);
        assert!(coloured.contains("\u{1b}[1;31merror:"), "{name}");
    }
}

#[test]
fn good_manifests_come_to_what_their_golden_files_say() {
    let folder = root().join("fixtures/manifests/good");
    let mut wrong = Vec::new();
    for (name, files) in fixtures("good") {
        let manifests = resolve(&files)
            .unwrap_or_else(|p| panic!("{name}\n{}", manifest::render(&p, Style::Plain)));
        let json = serde_json::to_value(&manifests).unwrap();
        assert_eq!(
            serde_json::from_value::<trueup_schema::kind::FleetManifests>(json.clone()).unwrap(),
            manifests
        );
        golden(
            &folder.join(format!("{name}.json")),
            &format!("{json:#}\n"),
            &mut wrong,
        );
    }
    assert!(
        wrong.is_empty(),
        "TRUEUP_ACCEPT=1 writes them anew\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_committed_schemas_are_those_of_the_types() {
    let folder = root().join("schema/json");
    let mut wrong = Vec::new();
    for kind in json_schema::KINDS {
        let text = json_schema::text(kind).unwrap();
        golden(
            &folder.join(json_schema::file_name(kind)),
            &text,
            &mut wrong,
        );
    }
    assert!(
        wrong.is_empty(),
        "TRUEUP_ACCEPT=1 writes them anew\n{}",
        wrong.join("\n")
    );
}

/// Whether every document passes the schema of its kind; a document of no kind with a schema passes none.
fn schemas_accept(
    validators: &BTreeMap<&str, jsonschema::Validator>,
    documents: &[serde_json::Value],
) -> bool {
    documents.iter().all(|document| {
        let kind = document
            .get("kind")
            .and_then(|k| k.as_str())
            .unwrap_or_default();
        validators.get(kind).is_some_and(|v| v.is_valid(document))
    })
}

#[test]
fn schemas_and_reader_agree_on_every_fixture() {
    let validators: BTreeMap<&str, _> = json_schema::KINDS
        .into_iter()
        .map(|kind: Kind| {
            (
                kind.word(),
                jsonschema::validator_for(&json_schema::of(kind).unwrap()).unwrap(),
            )
        })
        .collect();
    for (name, files) in fixtures("good") {
        let documents = manifest::documents_as_json(&files[0].1).unwrap();
        assert!(
            schemas_accept(&validators, &documents),
            "the schemas refuse {name}"
        );
    }
    let (mut compared, mut differ) = (0, Vec::new());
    for (name, files) in fixtures("bad") {
        let problems = resolve(&files).expect_err(&name);
        let Some(documents) = manifest::documents_as_json(&files[0].1) else {
            continue;
        };
        let accepted = schemas_accept(&validators, &documents);
        let seen = |sees| problems.iter().any(|p| p.kind.schema_sees() == sees);
        let kinds: BTreeSet<_> = problems.iter().map(|p| p.kind).collect();
        if seen(SchemaSees::Always) {
            compared += 1;
            if accepted {
                differ.push(format!(
                    "the schemas accept {name}, and should see one of {kinds:?}"
                ));
            }
        } else if !seen(SchemaSees::Sometimes) {
            compared += 1;
            if !accepted {
                differ.push(format!(
                    "the schemas refuse {name} for what only the reader can see: {kinds:?}"
                ));
            }
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert!(compared >= 40, "{compared} fixtures were compared");
}

#[test]
fn no_cut_of_any_fixture_brings_the_reader_down() {
    for files in fixtures("good")
        .into_values()
        .chain(fixtures("bad").into_values())
    {
        let (path, bytes) = &files[0];
        for end in (0..bytes.len()).step_by(7) {
            if let Err(problems) = manifest::resolve(&[(path, &bytes[..end])]) {
                assert!(!manifest::render(&problems, Style::Plain).is_empty());
            }
        }
    }
}

/// Every place in a document below `spec` and `metadata`, as a JSON pointer.
fn places(value: &serde_json::Value, at: &str, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, below) in map {
                let at = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
                found.push(at.clone());
                places(below, &at, found);
            }
        }
        serde_json::Value::Array(items) => {
            for (n, below) in items.iter().enumerate() {
                found.push(format!("{at}/{n}"));
                places(below, &format!("{at}/{n}"), found);
            }
        }
        _ => {}
    }
}

fn as_file(documents: &[serde_json::Value]) -> Files {
    let text: Vec<String> = documents.iter().map(|d| d.to_string()).collect();
    vec![("full.yaml".to_owned(), text.join("\n---\n").into_bytes())]
}

#[test]
fn every_field_refuses_every_type_but_its_own() {
    let validators: BTreeMap<&str, _> = json_schema::KINDS
        .into_iter()
        .map(|kind| {
            (
                kind.word(),
                jsonschema::validator_for(&json_schema::of(kind).unwrap()).unwrap(),
            )
        })
        .collect();
    let full = manifest::documents_as_json(&fixtures("good")["full"][0].1).unwrap();
    manifest::resolve(&as_file(&full)).expect("the whole is good as JSON too");
    let mut tried = 0;
    for (n, document) in full.iter().enumerate() {
        let mut found = Vec::new();
        places(document, "", &mut found);
        for place in found {
            for other in [
                serde_json::json!({}),
                serde_json::json!([[]]),
                serde_json::json!(-1.5),
                serde_json::json!(null),
                serde_json::json!(true),
            ] {
                let own = document.pointer(&place).unwrap();
                if std::mem::discriminant(own) == std::mem::discriminant(&other) {
                    continue;
                }
                let mut documents = full.clone();
                *documents[n].pointer_mut(&place).unwrap() = other.clone();
                let problems = manifest::resolve(&as_file(&documents)).expect_err(&place);
                assert!(
                    problems
                        .iter()
                        .all(|p| p.line > 0 || p.kind == ProblemKind::NoFleet),
                    "{place}: {problems:?}"
                );
                let changed = &documents[n];
                let kind = changed["kind"].as_str().unwrap_or_default();
                assert!(
                    !validators.get(kind).is_some_and(|v| v.is_valid(changed)),
                    "the schema takes {other} at {place}"
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 400, "{tried}");
}

#[test]
fn the_full_fixture_has_every_field_of_the_schemas() {
    let full = manifest::documents_as_json(&fixtures("good")["full"][0].1).unwrap();
    let mut found = Vec::new();
    full.iter().for_each(|d| places(d, "", &mut found));
    let used: BTreeSet<&str> = found.iter().filter_map(|p| p.rsplit('/').next()).collect();
    let mut missing = Vec::new();
    for kind in json_schema::KINDS {
        let schema = json_schema::of(kind).unwrap();
        let definitions = schema["$defs"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(_, d)| d);
        for properties in definitions
            .chain([&schema])
            .filter_map(|d| d["properties"].as_object())
        {
            // Not built yet, so no good fixture has it.
            missing.extend(
                properties
                    .keys()
                    .filter(|k| !used.contains(k.as_str()) && *k != "specialisation")
                    .cloned(),
            );
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_thousand_hosts_are_read_in_moments() {
    let mut text = FLEET.to_owned();
    for n in 0..1000 {
        let before = if n == 0 {
            String::new()
        } else {
            format!("host-{}", n - 1)
        };
        text += &format!(
            "---\napiVersion: trueup/v1alpha1\nkind: Host\nmetadata: {{name: host-{n}, labels: {{role: web}}}}\nspec: {{dependsOn: [{before}]}}\n"
        );
    }
    let begun = std::time::Instant::now();
    let manifests = manifest::resolve(&[("hosts.yaml", text)]).expect("good");
    assert_eq!(manifests.hosts.len(), 1000);
    // Some 0.2 s unoptimised on a busy machine; a square of the hosts would take minutes.
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

proptest::proptest! {
    #[test]
    fn no_damage_to_a_manifest_brings_the_reader_down(
        at in 0usize..4000,
        gone in 0usize..40,
        put in proptest::collection::vec(proptest::sample::select(b"&*![]{}:,\"'|>-?#%@`~<\n\t\r \0\xef\xbb\xbf\xc3a0".to_vec()), 0..12),
    ) {
        let mut bytes = fixtures("good")["full"][0].1.clone();
        let from = at.min(bytes.len());
        let to = (from + gone).min(bytes.len());
        bytes.splice(from..to, put);
        if let Err(problems) = manifest::resolve(&[("full.yaml", &bytes)]) {
            assert!(!problems.is_empty() && !manifest::render(&problems, Style::Coloured).is_empty());
        }
    }
}
