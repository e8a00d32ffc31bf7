//! What Nix knows of store paths, by `nix path-info --json`: pure, and of every form that Nix has printed it in.

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
    /// Names of the keys that signed it. Whether the signatures are right is Nix' matter.
    pub(super) signers: Vec<String>,
}

/// The closure, or why it can't be told.
pub(super) fn parse(json: &[u8]) -> Result<Vec<PathInfo>, String> {
    let all: Value = serde_json::from_slice(json).map_err(|e| format!("not JSON: {e}"))?;
    // Since 2.33 a version and the infos stand side by side.
    let all = match all.get("info") {
        Some(info) if info.is_object() => info.clone(),
        _ => all,
    };
    let one = |name: &str, v: &Value| -> Result<PathInfo, String> {
        if v.is_null() || v["valid"].as_bool() == Some(false) {
            return Err(format!("{name} is not valid"));
        }
        let full = full_name(name);
        Ok(PathInfo {
            path: full.parse().map_err(|e| format!("{name}: {e}"))?,
            deriver: v["deriver"].as_str().map(full_name),
            ultimate: v["ultimate"].as_bool().unwrap_or(false),
            content_addressed: !matches!(&v["ca"], Value::Null) && v["ca"] != "",
            signers: v["signatures"]
                .as_array()
                .map_or_else(Vec::new, |sigs| sigs.iter().filter_map(signer).collect()),
        })
    };
    match &all {
        Value::Object(map) => map.iter().map(|(name, v)| one(name, v)).collect(),
        Value::Array(list) => list
            .iter()
            .map(|v| one(v["path"].as_str().unwrap_or_default(), v))
            .collect(),
        _ => Err("neither a list nor a map".to_owned()),
    }
}

/// Newest Nix prints base names.
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
            format!(r#""ca":null,"deriver":"{PATH}.drv","ultimate":true,"signatures":[{sigs}]"#)
        };
        let texts = [
            format!(r#"{{"{PATH}":{{{}}}}}"#, fields(r#""k-1:AA==""#)),
            format!(r#"[{{"path":"{PATH}",{}}}]"#, fields(r#""k-1:AA==""#)),
            format!(
                r#"{{"version":2,"info":{{"{base}":{{{}}}}}}}"#,
                fields(r#"{"keyName":"k-1","sig":"AA=="}"#)
            ),
        ];
        for text in texts {
            let all = parse(text.as_bytes()).unwrap();
            let wanted = PathInfo {
                path: PATH.parse().unwrap(),
                deriver: Some(format!("{PATH}.drv")),
                ultimate: true,
                content_addressed: false,
                signers: vec!["k-1".to_owned()],
            };
            assert_eq!(all, [wanted], "{text}");
        }
        assert!(parse(format!(r#"{{"{PATH}":null}}"#).as_bytes()).is_err());
        assert!(parse(br#"{"/etc/passwd":{}}"#).is_err());
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
