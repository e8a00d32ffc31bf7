//! What Nix knows of store paths, by `nix path-info --json`: pure, and of every form that Nix has printed it in.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use trueup_schema::StorePath;

/// One valid path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PathInfo {
    pub(super) path: StorePath,
    /// What built it, as far as known.
    pub(super) deriver: Option<String>,
    /// Built in this store, by its own hands.
    pub(super) ultimate: bool,
    /// Its name says its content: nobody has to vouch for it.
    pub(super) content_addressed: bool,
    /// Full names of those that it refers to.
    pub(super) references: Vec<String>,
    /// Names of the keys that signed it. Whether the signatures are right is Nix' matter.
    pub(super) signers: Vec<String>,
}

/// What is told of one path: `Err` of its name where it is not valid.
type Told<'a> = Result<(String, &'a Value), String>;

fn one<'a>(name: &str, v: &'a Value) -> Told<'a> {
    let name = full_name(name);
    if v.is_null() || v["valid"].as_bool() == Some(false) {
        return Err(name);
    }
    Ok((name, v))
}

/// Each path that is told of, by its full name. Since 2.33 a version and the infos stand side by side; before 2.19 they were a
/// list.
fn told(all: &Value) -> Option<Vec<Told<'_>>> {
    let all = all.get("info").filter(|i| i.is_object()).unwrap_or(all);
    match all {
        Value::Object(map) => Some(map.iter().map(|(name, v)| one(name, v)).collect()),
        Value::Array(list) => {
            let name = |v: &Value| v["path"].as_str().unwrap_or_default().to_owned();
            Some(list.iter().map(|v| one(&name(v), v)).collect())
        }
        _ => None,
    }
}

/// The closure, or why it can't be told.
pub(super) fn parse(json: &[u8]) -> Result<Vec<PathInfo>, String> {
    let all: Value = serde_json::from_slice(json).map_err(|e| format!("not JSON: {e}"))?;
    let all = told(&all).ok_or("neither a list nor a map")?;
    let texts = |v: &Value, read: fn(&Value) -> Option<String>| {
        let all = v.as_array().map_or(&[][..], Vec::as_slice);
        all.iter().filter_map(read).collect()
    };
    let one = |told: Told<'_>| -> Result<PathInfo, String> {
        let (name, v) = told.map_err(|name| format!("{name} is not valid"))?;
        Ok(PathInfo {
            path: name.parse().map_err(|e| format!("{name}: {e}"))?,
            deriver: v["deriver"].as_str().map(full_name),
            ultimate: v["ultimate"].as_bool().unwrap_or(false),
            content_addressed: !v["ca"].is_null() && v["ca"] != "",
            references: texts(&v["references"], |v| v.as_str().map(full_name)),
            signers: texts(&v["signatures"], signer),
        })
    };
    all.into_iter().map(one).collect()
}

/// Those that are valid, of what `nix path-info --json` says of some: others are told as such, or not at all.
pub(super) fn valid(json: &[u8]) -> BTreeSet<StorePath> {
    let all = serde_json::from_slice::<Value>(json).unwrap_or_default();
    let all = told(&all).unwrap_or_default().into_iter().flatten();
    all.filter_map(|(name, _)| name.parse().ok()).collect()
}

/// Those of `all` that `top` needs, itself included. `None`: not all of them are there.
pub(super) fn closure(all: &[PathInfo], top: &StorePath) -> Option<Vec<PathInfo>> {
    let by_name: BTreeMap<&str, &PathInfo> = all.iter().map(|i| (i.path.as_str(), i)).collect();
    let mut found = BTreeMap::new();
    let mut next = vec![top.as_str()];
    while let Some(name) = next.pop() {
        if found.contains_key(name) {
            continue;
        }
        let info = *by_name.get(name)?;
        found.insert(name, info.clone());
        next.extend(info.references.iter().map(String::as_str));
    }
    Some(found.into_values().collect())
}

/// With the store's folder before it, as all but the newest forms have it.
pub(super) fn full_name(name: &str) -> String {
    if name.starts_with('/') {
        name.to_owned()
    } else {
        format!("/nix/store/{name}")
    }
}

fn signer(v: &Value) -> Option<String> {
    let name = match v {
        Value::String(text) => text.split_once(':')?.0,
        other => other["keyName"].as_str()?,
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/nix/store/5nnc2yhdk0gas6igkw8mi1vis89hkdgr-top";

    #[test]
    fn every_form_of_nix_says_the_same() {
        let base = &PATH["/nix/store/".len()..];
        let fields = |sigs: &str| {
            format!(
                r#""ca":null,"deriver":"{PATH}.drv","references":["{base}"],"ultimate":true,"signatures":[{sigs}]"#
            )
        };
        let texts = [
            format!(r#"{{"{PATH}":{{{}}}}}"#, fields(r#""k-1:AA==""#)),
            format!(r#"[{{"path":"{PATH}",{}}}]"#, fields(r#""k-1:AA==""#)),
            format!(
                r#"{{"version":2,"info":{{"{base}":{{{}}}}}}}"#,
                fields(r#"{"keyName":"k-1","sig":"AA=="}"#)
            ),
        ];
        for text in &texts {
            let all = parse(text.as_bytes()).unwrap();
            let wanted = PathInfo {
                path: PATH.parse().unwrap(),
                deriver: Some(format!("{PATH}.drv")),
                ultimate: true,
                content_addressed: false,
                references: vec![PATH.to_owned()],
                signers: vec!["k-1".to_owned()],
            };
            assert_eq!(all, [wanted], "{text}");
        }
        for text in &texts {
            assert_eq!(
                valid(text.as_bytes()),
                BTreeSet::from([PATH.parse().unwrap()])
            );
        }
        for other in [
            format!(r#"{{"{PATH}":null}}"#),
            format!(r#"[{{"path":"{PATH}","valid":false}}]"#),
            format!(r#"{{"version":2,"info":{{"{base}":null}}}}"#),
            "no JSON".to_owned(),
        ] {
            assert_eq!(valid(other.as_bytes()), BTreeSet::new(), "{other}");
        }
        assert!(parse(format!(r#"{{"{PATH}":null}}"#).as_bytes()).is_err());
        assert!(parse(br#"{"/etc/passwd":{}}"#).is_err());
    }

    #[test]
    fn a_closure_is_what_one_needs_and_none_if_something_lacks() {
        let path = |c: &str| format!("/nix/store/{}-x", c.repeat(32));
        let info = |c: &str, needs: &[&str]| {
            let needs: Vec<String> = needs.iter().map(|n| path(n)).collect();
            serde_json::json!({ "path": path(c), "references": needs })
        };
        let all = [
            info("a", &["a", "b"]),
            info("b", &["c"]),
            info("c", &["a"]),
            info("d", &["f"]),
        ];
        let all = parse(serde_json::json!(all).to_string().as_bytes()).unwrap();
        let of = |c: &str| closure(&all, &path(c).parse().unwrap());
        let names: Vec<String> = of("b")
            .unwrap()
            .iter()
            .map(|i| i.path.to_string())
            .collect();
        assert_eq!(names, ["a", "b", "c"].map(path));
        assert_eq!(of("d"), None);
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_printed_panics(text: String, flag: bool, ca: Option<String>) {
            let _any = parse(text.as_bytes());
            let v = serde_json::json!({PATH: {"ultimate": flag, "ca": ca, "signatures": [text, 1, null], "deriver": text}});
            let all = parse(v.to_string().as_bytes()).unwrap();
            assert_eq!(all[0].ultimate, flag);
        }
    }
}
