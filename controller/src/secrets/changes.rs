//! What two commits make of one host's secrets, from ciphertext alone: which differ, and which units their hosts restart.
//! Where a file was sealed anew nobody can see from here whether a value is another, and that is what is said.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use trueup_schema::kind::{Piece, pieces};
use trueup_schema::wire::{Goal, SecretFile, SecretPlace, SecretTemplate, SecretsGoal};
use trueup_secrets::Encrypted;

use super::{File, parse};

/// How a secret differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Differs {
    /// The host gets it.
    New,
    /// It is taken away. No unit is touched for that.
    Removed,
    /// Its value.
    Value,
    /// Its file was sealed anew, so the host alone can tell.
    Sealed,
    /// Its owner, group or mode.
    Access,
    /// Its link, or which units it concerns: no unit is touched for that.
    Place,
}

/// One secret or template of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretChange {
    /// Its name.
    pub name: String,
    /// How.
    pub differs: Differs,
    /// Units that restart, where they run.
    pub restart: Vec<String>,
    /// Units that reload.
    pub reload: Vec<String>,
    /// Users are made from it: the activation script of the running closure runs again.
    pub activates: bool,
}

/// From one goal to the other. A goal that does not read is as none.
#[must_use]
pub fn changes(old: Option<&Goal>, new: Option<&Goal>) -> Vec<SecretChange> {
    let body = |goal: Option<&Goal>| -> SecretsGoal {
        let read = goal.map(|g| serde_json::from_value(g.body.clone()));
        read.and_then(Result::ok).unwrap_or_default()
    };
    let (old, new) = (body(old), body(new));
    let secrets: BTreeMap<&str, Differs> = new
        .secrets
        .iter()
        .filter_map(|s| Some((s.name.as_str(), secret(&old, &new, s)?)))
        .collect();
    let mut found: Vec<SecretChange> = new
        .secrets
        .iter()
        .filter_map(|s| {
            let differs = *secrets.get(s.name.as_str())?;
            let units = (&s.restart_units, &s.reload_units);
            Some(change(&s.name, differs, units, s.needed_for_users))
        })
        .collect();
    found.extend(new.templates.iter().filter_map(|t| {
        let differs = template(&old, t, &secrets)?;
        let units = (&t.restart_units, &t.reload_units);
        Some(change(&t.name, differs, units, false))
    }));
    let none = (&Vec::new(), &Vec::new());
    let gone = |name: &String| change(name, Differs::Removed, none, false);
    let secrets = old.secrets.iter().map(|s| &s.name);
    let gone_secrets = secrets.filter(|n| !new.secrets.iter().any(|s| s.name == **n));
    found.extend(gone_secrets.map(gone));
    let templates = old.templates.iter().map(|t| &t.name);
    let gone_templates = templates.filter(|n| !new.templates.iter().any(|t| t.name == **n));
    found.extend(gone_templates.map(gone));
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn change(
    name: &str,
    differs: Differs,
    (restart, reload): (&Vec<String>, &Vec<String>),
    users: bool,
) -> SecretChange {
    // Only what a unit can see touches it, as on the host.
    let seen = !matches!(differs, Differs::Removed | Differs::Place);
    let units = |list: &Vec<String>| if seen { list.clone() } else { Vec::new() };
    let restart = units(restart);
    let mut reload = units(reload);
    reload.retain(|unit| !restart.contains(unit));
    SecretChange {
        name: name.to_owned(),
        differs,
        restart,
        reload,
        activates: users && seen,
    }
}

fn secret(old: &SecretsGoal, new: &SecretsGoal, now: &SecretPlace) -> Option<Differs> {
    let Some(was) = old.secrets.iter().find(|s| s.name == now.name) else {
        return Some(Differs::New);
    };
    let access = |s: &SecretPlace| (s.owner.clone(), s.group.clone(), s.mode, s.needed_for_users);
    let place = |s: &SecretPlace| {
        let units = (s.restart_units.clone(), s.reload_units.clone());
        (s.path.clone(), s.directory_mode, units)
    };
    let files = (old.files.get(was.file), new.files.get(now.file));
    let value = match files {
        (Some(a), Some(b)) => value((a, was.key.as_deref()), (b, now.key.as_deref())),
        _ => Some(Differs::Sealed),
    };
    value
        .or_else(|| (access(was) != access(now)).then_some(Differs::Access))
        .or_else(|| (place(was) != place(now)).then_some(Differs::Place))
}

/// Two values as they stand sealed in their files.
fn value(
    (old, old_key): (&SecretFile, Option<&str>),
    (new, new_key): (&SecretFile, Option<&str>),
) -> Option<Differs> {
    if (&old.text, &old.data, old.format, old_key) == (&new.text, &new.data, new.format, new_key) {
        return None;
    }
    let (Some(was), Some(is)) = (read(old), read(new)) else {
        return Some(Differs::Sealed);
    };
    if was.has_same(old_key, &is, new_key) {
        return None;
    }
    // Under one data key what did not change keeps its bytes.
    let one_key = was.shares_key_with(&is);
    Some(if one_key {
        Differs::Value
    } else {
        Differs::Sealed
    })
}

fn read(file: &SecretFile) -> Option<Encrypted> {
    let bytes = match (&file.text, &file.data) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, data) => STANDARD.decode(data.as_deref()?).ok()?,
    };
    match parse(&bytes, file.format).ok()? {
        File::Sops(file) => Some(*file),
        File::Age => None,
    }
}

fn template(
    old: &SecretsGoal,
    now: &SecretTemplate,
    secrets: &BTreeMap<&str, Differs>,
) -> Option<Differs> {
    let Some(was) = old.templates.iter().find(|t| t.name == now.name) else {
        return Some(Differs::New);
    };
    let of_values = || {
        let named = pieces(&now.content).filter_map(|p| match p {
            Piece::Secret(name) => secrets.get(name).copied(),
            Piece::Text(_) => None,
        });
        let seen = named.filter(|d| matches!(d, Differs::New | Differs::Value | Differs::Sealed));
        seen.min().map(|d| match d {
            Differs::New => Differs::Value,
            other => other,
        })
    };
    let access = |t: &SecretTemplate| (t.owner.clone(), t.group.clone(), t.mode);
    if was.content != now.content {
        return Some(Differs::Value);
    }
    of_values()
        .or_else(|| (access(was) != access(now)).then_some(Differs::Access))
        .or_else(|| (was != now).then_some(Differs::Place))
}
