//! The arrows of the house (DESIGN section 3): which crate may use which, and which room which. Reads `cargo metadata`
//! and the sources; the checkers are functions of values, so that wrong arrows can be planted in front of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use syn::visit::Visit;

/// crate, and those of ours that it may depend on. `trueup-fixtures` may besides be a dev-dependency of any.
const CRATES: [(&str, &[&str]); 9] = [
    ("trueup-schema", &[]),
    ("trueup-secrets", &["trueup-schema"]),
    ("trueup-core", &["trueup-schema"]),
    ("trueup-engine", &["trueup-core", "trueup-schema"]),
    (
        "trueup",
        &[
            "trueup-engine",
            "trueup-core",
            "trueup-schema",
            "trueup-secrets",
        ],
    ),
    (
        "trueup-agent",
        &["trueup-core", "trueup-schema", "trueup-secrets"],
    ),
    (
        "trueup-fixtures",
        &[
            "trueup-engine",
            "trueup-core",
            "trueup-schema",
            "trueup-secrets",
        ],
    ),
    ("xtask", &[]),
    (TESTS, &[]), // everything
];
const TESTS: &str = "trueup-tests";
const FIXTURES: &str = "trueup-fixtures";

/// What the two crates that a simulator replays may take from outside.
const OUTSIDE: [(&str, &[&str]); 2] = [
    ("trueup-core", &["serde", "serde_json", "thiserror", "jiff"]),
    (
        "trueup-engine",
        &[
            "async-trait",
            "futures",
            "jiff",
            "serde",
            "serde_json",
            "thiserror",
            "tokio",
            "tracing",
        ],
    ),
];

/// A host's worker puts wants into the pipeline, so `reconcile` may use it; the pipeline only wakes hosts by key.
/// crate's folder, room, and rooms of the same crate that it must not use. An edge and other edges: see [`room_arrows`].
const ROOMS: [(&str, &str, &[&str]); 4] = [
    ("controller", "edge", &["api", "cli"]),
    ("controller", "api", &["cli"]),
    (
        "controller/engine",
        "ports",
        &["pipeline", "reconcile", "runtime"],
    ),
    ("controller/engine", "pipeline", &["reconcile"]),
];

/// The one edge that the others may use.
const EXEC: &str = "exec";

struct Dependency {
    of: String,
    on: String,
    dev: bool,
    features: Vec<String>,
}

fn crate_arrows(dependencies: &[Dependency]) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = CRATES.into_iter().collect();
    let outside: BTreeMap<&str, &[&str]> = OUTSIDE.into_iter().collect();
    let mut wrong = Vec::new();
    for Dependency {
        of,
        on,
        dev,
        features,
    } in dependencies
    {
        let Some(may) = allowed.get(of.as_str()) else {
            wrong.push(format!("{of} is not in the picture"));
            continue;
        };
        let ours = allowed.contains_key(on.as_str());
        let fine = if ours {
            of == TESTS || may.contains(&on.as_str()) || (*dev && on == FIXTURES)
        } else {
            *dev || outside
                .get(of.as_str())
                .is_none_or(|may| may.contains(&on.as_str()))
        };
        if !fine {
            wrong.push(format!("{of} -> {on}"));
        }
        // The engine knows no executor: of tokio it takes what any executor can poll.
        if of == "trueup-engine" && on == "tokio" && !dev && features != &["sync"] {
            wrong.push(format!("{of} -> tokio with {features:?}"));
        }
    }
    wrong
}

/// One source file: its module path within its crate (`["edge", "git", "mirror"]`), and its text.
struct Source {
    module: Vec<String>,
    text: String,
}

fn room_arrows(folder: &str, source: &Source) -> Vec<String> {
    let Some(room) = source.module.first() else {
        return Vec::new(); // lib.rs and main.rs put the rooms together
    };
    let from = source.module.join("::");
    let mut wrong = Vec::new();
    for path in used(source) {
        let Some(to) = path.first() else { continue };
        for (of, banned_in, banned) in ROOMS {
            if of == folder && banned_in == room && banned.contains(&to.as_str()) {
                wrong.push(format!("{folder}: {from} -> {}", path.join("::")));
            }
        }
        if let (Some(edge), true) = (source.module.get(1), room == "edge" && to == "edge") {
            // `crate::edge::*` reaches every edge; a bare `crate::edge` reaches any later in the line
            let other = path.get(1).map_or("*", String::as_str);
            if other != edge && other != EXEC {
                wrong.push(format!("{folder}: {from} -> {}", path.join("::")));
            }
        }
    }
    wrong
}

/// Every path in the file that leads somewhere in its own crate, made absolute: from `use` lines and from any other place.
fn used(source: &Source) -> BTreeSet<Vec<String>> {
    let file = syn::parse_file(&source.text).expect("a source file of ours parses");
    let mut finder = Finder {
        module: source.module.clone(),
        paths: BTreeSet::new(),
    };
    finder.visit_file(&file);
    finder.paths
}

struct Finder {
    module: Vec<String>,
    paths: BTreeSet<Vec<String>>,
}

impl Finder {
    fn add(&mut self, path: &[String]) {
        let mut here = self.module.clone();
        let mut rest = path;
        match rest.first().map(String::as_str) {
            Some("crate") => {
                here.clear();
                rest = &rest[1..];
            }
            Some("self") => rest = &rest[1..],
            Some("super") => {
                while rest.first().is_some_and(|word| word == "super") {
                    here.pop();
                    rest = &rest[1..];
                }
            }
            _ => return, // another crate, a local name, or a name that some `use` brought in
        }
        here.extend_from_slice(rest);
        self.paths.insert(here);
    }

    fn tree(&mut self, tree: &syn::UseTree, prefix: &mut Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.tree(&path.tree, prefix);
                prefix.pop();
            }
            syn::UseTree::Name(syn::UseName { ident })
            | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                prefix.push(ident.to_string());
                self.add(prefix);
                prefix.pop();
            }
            syn::UseTree::Glob(_) => self.add(prefix),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(tree, prefix);
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        self.add(&words);
        syn::visit::visit_path(self, path);
    }

    /// An inline module is one step further down, for what `super` means in it.
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        syn::visit::visit_item_mod(self, item);
        self.module.pop();
    }
}

/// Files that exist and that no `mod` line names: their tests would never run.
fn orphans(named: &BTreeSet<PathBuf>, present: &BTreeSet<PathBuf>) -> Vec<String> {
    present
        .difference(named)
        .map(|path| format!("{} is named by no mod", path.display()))
        .collect()
}

/// The files that `mod` lines reach from a root file, itself included.
fn reached(root: &Path, is_root: bool, into: &mut BTreeSet<PathBuf>) {
    into.insert(root.to_owned());
    let text = std::fs::read_to_string(root).unwrap();
    let mut dir = root.parent().unwrap().to_owned();
    if !is_root && root.file_name().unwrap() != "mod.rs" {
        dir.push(root.file_stem().unwrap());
    }
    for item in syn::parse_file(&text)
        .expect("a source file of ours parses")
        .items
    {
        let syn::Item::Mod(item) = item else { continue };
        if item.content.is_some() {
            continue;
        }
        // `#[path]` counts from the folder of the file that it stands in
        let elsewhere = item.attrs.iter().find_map(path_attribute);
        for file in [
            elsewhere.map(|path| root.parent().unwrap().join(path)),
            Some(dir.join(format!("{}.rs", item.ident))),
            Some(dir.join(item.ident.to_string()).join("mod.rs")),
        ] {
            if let Some(file) = file.filter(|file| file.is_file()) {
                reached(&file, false, into);
            }
        }
    }
}

fn path_attribute(attribute: &syn::Attribute) -> Option<String> {
    let syn::Meta::NameValue(pair) = &attribute.meta else {
        return None;
    };
    let syn::Expr::Lit(syn::ExprLit {
        lit: syn::Lit::Str(text),
        ..
    }) = &pair.value
    else {
        return None;
    };
    pair.path.is_ident("path").then(|| text.value())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn rust_files(dir: &Path) -> BTreeSet<PathBuf> {
    walkdir::WalkDir::new(dir)
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| {
            entry.file_type().is_file() && entry.path().extension().is_some_and(|ext| ext == "rs")
        })
        .map(walkdir::DirEntry::into_path)
        .collect()
}

fn source(src: &Path, file: &Path) -> Source {
    let mut module: Vec<String> = file
        .strip_prefix(src)
        .unwrap()
        .with_extension("")
        .iter()
        .map(|word| word.to_str().unwrap().to_owned())
        .collect();
    if module.last().is_some_and(|last| last == "mod") || module == ["lib"] || module == ["main"] {
        module.pop();
    }
    Source {
        module,
        text: std::fs::read_to_string(file).unwrap(),
    }
}

fn planted(module: &str, text: &str) -> Source {
    Source {
        module: module.split("::").map(str::to_owned).collect(),
        text: text.to_owned(),
    }
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let metadata = cargo_metadata::MetadataCommand::new()
        .current_dir(root())
        .no_deps()
        .exec()
        .unwrap();
    let dependencies: Vec<Dependency> = metadata
        .packages
        .iter()
        .flat_map(|package| {
            package.dependencies.iter().map(|dependency| Dependency {
                of: package.name.to_string(),
                on: dependency.name.clone(),
                dev: dependency.kind == cargo_metadata::DependencyKind::Development,
                features: dependency.features.clone(),
            })
        })
        .collect();
    assert!(dependencies.len() > 20, "the metadata was read");
    assert_eq!(crate_arrows(&dependencies), Vec::<String>::new());
}

#[test]
fn a_wrong_arrow_between_crates_is_found() {
    let arrow = |of: &str, on: &str, dev| Dependency {
        of: of.into(),
        on: on.into(),
        dev,
        features: vec![],
    };
    let wrong = [
        arrow("trueup-core", "trueup-engine", false),
        arrow("trueup-agent", "trueup", false),
        arrow("trueup", "trueup-fixtures", false),
        arrow("trueup-core", "tokio", false),
        arrow("trueup-core", "trueup-engine", true),
        arrow("xtask", "trueup-schema", false),
        arrow("newcomer", "serde", false),
        Dependency {
            features: vec!["sync".into(), "rt".into()],
            ..arrow("trueup-engine", "tokio", false)
        },
    ];
    for arrow in wrong {
        let found = crate_arrows(std::slice::from_ref(&arrow));
        assert_eq!(found.len(), 1, "{} -> {}", arrow.of, arrow.on);
    }
    let right = [
        arrow("trueup", "trueup-fixtures", true),
        arrow("trueup-core", "proptest", true),
        arrow("trueup-tests", "trueup-agent", true),
    ];
    assert_eq!(crate_arrows(&right), Vec::<String>::new());
}

#[test]
fn rooms_use_only_the_rooms_they_may() {
    let mut wrong = Vec::new();
    for folder in [
        "controller",
        "controller/core",
        "controller/engine",
        "agent",
        "schema",
        "schema/secrets",
    ] {
        let src = root().join(folder).join("src");
        for file in rust_files(&src) {
            wrong.extend(room_arrows(folder, &source(&src, &file)));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn a_wrong_arrow_between_rooms_is_found() {
    for (folder, module, text) in [
        ("controller", "edge::git", "use crate::edge::db::Db;"),
        ("controller", "edge::git", "use super::db::Db;"),
        ("controller", "edge::git", "use super::{exec, db};"),
        ("controller", "edge::git", "use super::*;"),
        ("controller", "edge::git::mirror", "use super::super::db;"),
        (
            "controller",
            "edge::git",
            "mod tests { use super::super::db::Db; }",
        ),
        (
            "controller",
            "edge::git",
            "fn f() { crate::edge::db::open() }",
        ),
        ("controller", "edge::git", "fn f(db: &super::db::Db) {}"),
        (
            "controller",
            "edge::git",
            "pub use crate::{edge::{exec, nix as n}};",
        ),
        ("controller", "edge::git", "use crate::cli::Args;"),
        ("controller", "api", "fn f() { crate::cli::run() }"),
        (
            "controller/engine",
            "ports::db",
            "use crate::reconcile::Loop;",
        ),
        ("controller/engine", "pipeline", "use super::reconcile;"),
    ] {
        assert_eq!(
            room_arrows(folder, &planted(module, text)).len(),
            1,
            "{module}: {text}"
        );
    }
    for (folder, module, text) in [
        (
            "controller",
            "edge::git",
            "use crate::edge::exec::run; use super::exec; use crate::edge::git::mirror::Mirror;",
        ),
        (
            "controller",
            "edge::git::mirror",
            "use super::{url, super::exec}; use crate::settings::Settings;",
        ),
        ("controller", "edge::git", "mod tests { use super::*; }"),
        ("controller", "edge", "pub mod git; pub use self::git::Git;"),
        ("controller", "cli", "use crate::edge::{db, git};"),
        (
            "controller/engine",
            "reconcile",
            "use crate::ports::Db; use std::fmt;",
        ),
    ] {
        assert_eq!(
            room_arrows(folder, &planted(module, text)),
            Vec::<String>::new(),
            "{module}: {text}"
        );
    }
}

#[test]
fn every_source_file_is_named_by_a_mod() {
    for folder in [
        "controller/src",
        "controller/core/src",
        "controller/engine/src",
        "agent/src",
        "schema/src",
        "schema/secrets/src",
        "fixtures/src",
        "xtask/src",
        "tests/src",
        "tests/fast",
        "tests/edges",
        "tests/scenarios",
        "tests/lab",
    ] {
        let dir = root().join(folder);
        let mut named = BTreeSet::new();
        for name in ["lib.rs", "main.rs"] {
            let file = dir.join(name);
            if file.is_file() {
                reached(&file, true, &mut named);
            }
        }
        // programs of their own
        let present = rust_files(&dir)
            .into_iter()
            .filter(|file| !file.starts_with(dir.join("bin")))
            .collect();
        assert_eq!(orphans(&named, &present), Vec::<String>::new(), "{folder}");
    }
}

#[test]
fn a_file_that_no_mod_names_is_found() {
    let set = |names: &[&str]| names.iter().map(PathBuf::from).collect::<BTreeSet<_>>();
    assert_eq!(
        orphans(
            &set(&["main.rs", "a.rs"]),
            &set(&["main.rs", "a.rs", "b.rs"])
        ),
        ["b.rs is named by no mod"]
    );
}

/// STYLE section 2: a room has one sentence on its door.
#[test]
fn every_source_file_begins_with_what_it_is_for() {
    for folder in [
        "controller",
        "agent",
        "schema",
        "fixtures/src",
        "xtask/src",
        "tests",
    ] {
        for file in rust_files(&root().join(folder)) {
            // a test file of a room stands behind that room's door
            let stem = file.file_stem().unwrap().to_str().unwrap();
            if stem == "tests" || stem.ends_with("_tests") {
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(
                text.starts_with("//!"),
                "{} has no //! on its first line",
                file.display()
            );
        }
    }
}

/// The nearest clippy.toml replaces the root one: what is banned in core and engine must be named in both.
#[test]
fn the_fences_of_core_and_engine_ban_the_same() {
    let banned = |folder: &str| -> BTreeSet<String> {
        let text = std::fs::read_to_string(root().join(folder).join("clippy.toml")).unwrap();
        text.lines()
            .filter_map(|line| {
                line.trim()
                    .strip_prefix("{ path = \"")?
                    .split('"')
                    .next()
                    .map(str::to_owned)
            })
            .collect()
    };
    let core = banned("controller/core");
    assert_eq!(core, banned("controller/engine"));
    for path in [
        "std::time::SystemTime::now",
        "std::time::Instant::now",
        "tokio::spawn",
        "std::fs::File",
        "std::net::TcpStream",
        "std::process::Command::new",
        "std::env::var",
        "std::hash::RandomState",
        "std::collections::HashMap",
        "std::collections::HashSet",
    ] {
        assert!(core.contains(path), "{path}");
    }
    assert!(
        banned(".").is_subset(&core),
        "each repeats what it needs of the root's"
    );
}
