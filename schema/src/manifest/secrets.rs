//! `Secret`, and what fleet and hosts say of secrets, field by field. Opens no encrypted file: `sources` has that asked.

use super::{
    decode::{Fields, Reader},
    forms::{Decode, once_each, wrong_type},
    kinds::texts,
    problem::ProblemKind,
    rules,
    tree::{Meaning, Node, Value},
};
use crate::kind::{FleetSecrets, HostSecrets, Owner, SecretFormat, SecretSpec, SecretTemplate};

/// A text longer than this is a file, and files are not secrets' business.
const TEMPLATE_BYTES_MAX: usize = 64 << 10;

impl Decode for SecretSpec {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let source = f
            .need_node(r, "source")
            .and_then(|n| rules::REPOSITORY_FILE.read(r, n));
        let format: Option<SecretFormat> = f.opt(r, "format");
        let key = f.text(r, "key", &rules::SECRET_KEY);
        let hosts = f.need(r, "hosts");
        let spec = SecretSpec {
            source: source.clone().unwrap_or_default(),
            format,
            key,
            hosts: crate::kind::Selector::all(),
            allow_empty: f.opt(r, "allowEmpty"),
            path: f.text(r, "path", &rules::HOST_PATH),
            owner: f.opt(r, "owner"),
            group: f.opt(r, "group"),
            mode: f.opt(r, "mode"),
            directory_mode: f.opt(r, "directoryMode"),
            needed_for_users: f.opt(r, "neededForUsers"),
            restart_units: units(&mut f, r, "restartUnits"),
            reload_units: units(&mut f, r, "reloadUnits"),
            templates: f.opt(r, "templates"),
        };
        if let Some(source) = &source {
            let format = format.unwrap_or_else(|| SecretFormat::of_path(source));
            if f.has("key") && !format.has_keys() {
                let text = format!("a file of format `{format}` has no keys");
                let help = "leave `key` out: the secret is the whole file";
                r.report(ProblemKind::Conflict, f.key("key"), text, help);
            }
        }
        if spec.needed_for_users == Some(true) {
            for field in ["owner", "group", "templates"] {
                if f.has(field) {
                    let text = format!("`{field}` and `neededForUsers` exclude each other");
                    let help = "before users are made there is only root, who reads such a secret";
                    r.report(ProblemKind::Conflict, f.key(field), text, help);
                }
            }
        }
        f.close(r);
        Some(Self {
            source: source?,
            hosts: hosts?,
            ..spec
        })
    }
}

fn units(f: &mut Fields<'_>, r: &mut Reader<'_>, name: &'static str) -> Option<Vec<String>> {
    f.node(name).and_then(|n| texts(r, n, &rules::UNIT))
}

impl Decode for SecretTemplate {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let name = f
            .need_node(r, "name")
            .and_then(|n| rules::TEMPLATE_NAME.read(r, n));
        let content: Option<String> = f.need(r, "content");
        if let Some(text) = &content
            && text.len() > TEMPLATE_BYTES_MAX
        {
            let what = format!("`content` has {} bytes", text.len());
            let help = format!("at most {TEMPLATE_BYTES_MAX}");
            r.report(ProblemKind::OutOfRange, f.key("content"), what, help);
        }
        let template = Self {
            name: name.clone().unwrap_or_default(),
            content: content.clone().unwrap_or_default(),
            path: f.text(r, "path", &rules::HOST_PATH),
            owner: f.opt(r, "owner"),
            group: f.opt(r, "group"),
            mode: f.opt(r, "mode"),
            restart_units: units(&mut f, r, "restartUnits"),
            reload_units: units(&mut f, r, "reloadUnits"),
        };
        f.close(r);
        (name.is_some() && content.is_some()).then_some(template)
    }
}

impl Decode for Owner {
    fn decode(r: &mut Reader<'_>, node: &Node, _: &str) -> Option<Self> {
        let help = "a name such as `postgres`, or a number";
        let (Value::Scalar { text, .. }, Some(Meaning::Text | Meaning::Integer)) =
            (&node.value, node.meaning())
        else {
            wrong_type(r, node, "a name or a number", help);
            return None;
        };
        let read = text.parse();
        if let Err(error) = &read {
            let error: &crate::kind::ValueError = error;
            r.report(ProblemKind::BadOwner, node.at(), error.to_string(), help);
        }
        read.ok()
    }
}

impl Decode for FleetSecrets {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let admins = f.opt(r, "admins");
        once_each(r, node.find(&["admins"], None));
        f.close(r);
        Some(Self { admins })
    }
}

impl Decode for HostSecrets {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let secrets = Self {
            module: f.opt(r, "module"),
            age_keys: f.opt(r, "ageKeys"),
            identity_files: f
                .node("identityFiles")
                .and_then(|n| texts(r, n, &rules::HOST_PATH)),
        };
        once_each(r, node.find(&["ageKeys"], None));
        f.close(r);
        Some(secrets)
    }
}
