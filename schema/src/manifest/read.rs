//! One file to documents: bounds, bytes to text, text to trees, kind first and then that kind. Compares no two documents.

use super::{
    decode::{Fields, Reader, nearest},
    forms::{Decode, wrong_type},
    limits::{DOCUMENTS_MAX, FILE_BYTES_MAX},
    problem::{Problem, ProblemKind},
    source::Source,
    tree::{self, Node, Parsed, Value},
};
use crate::kind::{
    API_VERSION, AlertSpec, BuilderSpec, CacheSpec, CheckSpec, FleetSpec, HostSpec, Kind, Metadata,
    SecretSpec,
};

/// A document that says which kind it is.
pub(super) struct Document {
    pub file: usize,
    pub node: Box<Node>,
    pub kind: Kind,
    /// `None` when its metadata is wrong, which was reported.
    pub meta: Option<Metadata>,
    pub spec: Spec,
}

/// A spec as far as it could be read.
pub(super) enum Spec {
    Fleet(Option<FleetSpec>),
    Host(Option<HostSpec>),
    Check(Option<CheckSpec>),
    Alert(Option<AlertSpec>),
    Cache(Option<CacheSpec>),
    Secret(Option<SecretSpec>),
    Builder(Option<BuilderSpec>),
    /// Of a kind that is not built yet.
    Later,
}

/// What one file came to.
pub(super) struct File {
    pub source: Source,
    pub documents: Vec<Document>,
    /// Whether each document at least told its kind: else a rule over all documents can't be judged.
    pub whole: bool,
}

pub(super) fn file(index: usize, path: &str, bytes: &[u8], problems: &mut Vec<Problem>) -> File {
    let mut file = File {
        source: Source::new(path, ""),
        documents: Vec::new(),
        whole: false,
    };
    if bytes.len() > FILE_BYTES_MAX {
        let text = format!(
            "the file has {} bytes, and at most {FILE_BYTES_MAX} are read",
            bytes.len()
        );
        problems.push(
            Problem::of_file(ProblemKind::FileTooLarge, path, text)
                .help("split it: a folder may have many files"),
        );
        return file;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => file.source = Source::new(path, text),
        Err(error) => {
            let line = 1 + bytes[..error.valid_up_to()]
                .iter()
                .filter(|b| **b == b'\n')
                .count();
            let text =
                format!("the file is not UTF-8: line {line} has a byte that is no character");
            problems
                .push(Problem::of_file(ProblemKind::NotUtf8, path, text).help("save it as UTF-8"));
            return file;
        }
    }
    file.whole = true;
    let chunks = file.source.chunks();
    if chunks.len() > DOCUMENTS_MAX {
        let text = format!(
            "the file has {} documents, and at most {DOCUMENTS_MAX} are read",
            chunks.len()
        );
        problems.push(
            Problem::of_file(ProblemKind::TooManyDocuments, path, text)
                .help("split it: a folder may have many files"),
        );
        file.whole = false;
        return file;
    }
    for chunk in &chunks {
        match tree::parse(&file.source, chunk, problems) {
            Parsed::Nothing => {}
            Parsed::Broken => file.whole = false,
            Parsed::Document(node) => match document(index, &file.source, node, problems) {
                Some(document) => file.documents.push(document),
                None => file.whole = false,
            },
        }
    }
    file
}

fn document(
    file: usize,
    source: &Source,
    node: Box<Node>,
    problems: &mut Vec<Problem>,
) -> Option<Document> {
    let mut r = Reader {
        source,
        subject: "this document".to_owned(),
        problems: Vec::new(),
    };
    let read = envelope(&mut r, &node);
    problems.append(&mut r.problems);
    let (kind, meta, spec) = read?;
    Some(Document {
        file,
        node,
        kind,
        meta,
        spec,
    })
}

fn envelope(r: &mut Reader<'_>, node: &Node) -> Option<(Kind, Option<Metadata>, Spec)> {
    if !matches!(node.value, Value::Map(_)) {
        let help = "it begins with `apiVersion: trueup/v1alpha1` and `kind:`";
        r.report(
            ProblemKind::NotADocument,
            node.at(),
            "a document is a mapping",
            help,
        );
        return None;
    }
    let mut f = Fields::open(r, node, "")?;
    let kind_node = f.node("kind");
    r.subject = subject(node);
    let version = f.need_node(r, "apiVersion");
    if let Some(at) = version
        && scalar(at) != Some(API_VERSION)
    {
        let text = format!("this version of trueup reads `{API_VERSION}`");
        r.report(
            ProblemKind::WrongApiVersion,
            at.at(),
            text,
            format!("write `apiVersion: {API_VERSION}`"),
        );
    }
    let kind = match kind_node {
        None => {
            f.need_node(r, "kind");
            return None;
        }
        Some(at) => kind(r, at)?,
    };
    if Kind::NOT_YET.contains(&kind.word()) {
        // Its fields are not known, so they are not looked at.
        let at = kind_node.map_or(node.at(), Node::at);
        r.report(
            ProblemKind::NotYet,
            at,
            format!("kind `{kind}` is not built yet"),
            "leave the document out for now",
        );
        return Some((kind, None, Spec::Later));
    }
    let meta = f.need(r, "metadata");
    let spec = match f.need_node(r, "spec") {
        None => absent(kind),
        Some(at) => spec(r, kind, at),
    };
    if f.node("status").is_some() {
        let help = "leave it out: trueup shows it, Git never holds it";
        r.report(
            ProblemKind::StatusInGit,
            f.key("status"),
            "`status` is never in Git",
            help,
        );
    }
    f.close(r);
    Some((kind, meta, spec))
}

fn absent(kind: Kind) -> Spec {
    match kind {
        Kind::Fleet => Spec::Fleet(None),
        Kind::Host => Spec::Host(None),
        Kind::Check => Spec::Check(None),
        Kind::Alert => Spec::Alert(None),
        Kind::Cache => Spec::Cache(None),
        Kind::Secret => Spec::Secret(None),
        Kind::Builder => Spec::Builder(None),
        Kind::Container | Kind::Rollout | Kind::Receiver => Spec::Later,
    }
}

fn spec(r: &mut Reader<'_>, kind: Kind, at: &Node) -> Spec {
    match kind {
        Kind::Fleet => Spec::Fleet(FleetSpec::decode(r, at, "spec")),
        Kind::Host => Spec::Host(HostSpec::decode(r, at, "spec")),
        Kind::Check => Spec::Check(CheckSpec::decode(r, at, "spec")),
        Kind::Alert => Spec::Alert(AlertSpec::decode(r, at, "spec")),
        Kind::Cache => Spec::Cache(CacheSpec::decode(r, at, "spec")),
        Kind::Secret => Spec::Secret(SecretSpec::decode(r, at, "spec")),
        Kind::Builder => Spec::Builder(BuilderSpec::decode(r, at, "spec")),
        Kind::Container | Kind::Rollout | Kind::Receiver => Spec::Later,
    }
}

fn kind(r: &mut Reader<'_>, at: &Node) -> Option<Kind> {
    let Some(word) = scalar(at).filter(|w| !w.is_empty()) else {
        wrong_type(r, at, "a kind", "");
        return None;
    };
    if let Some((_, kind)) = Kind::WORDS.iter().find(|(w, _)| *w == word) {
        return Some(*kind);
    }
    let built = || {
        Kind::WORDS
            .iter()
            .map(|(w, _)| *w)
            .filter(|w| !Kind::NOT_YET.contains(w))
    };
    let help = match nearest(word, Kind::WORDS.iter().map(|(w, _)| *w)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("one of: {}", built().collect::<Vec<_>>().join(", ")),
    };
    r.report(
        ProblemKind::UnknownKind,
        at.at(),
        format!("`{word}` is no kind of document"),
        help,
    );
    None
}

fn scalar(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// ``Host `web-1` ``, as far as the document says it.
fn subject(node: &Node) -> String {
    let kind = node
        .get("kind")
        .and_then(|e| scalar(&e.value))
        .filter(|k| !k.is_empty());
    let name = node
        .find(&["metadata", "name"], None)
        .and_then(scalar)
        .filter(|n| !n.is_empty());
    match (kind, name) {
        (Some(kind), Some(name)) => format!("{kind} `{name}`"),
        (Some(kind), None) => format!("this {kind}"),
        (None, _) => "this document".to_owned(),
    }
}
