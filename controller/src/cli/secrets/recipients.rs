//! Who a file is to be encrypted to: named on the command line, else by the fleet's manifests, else by the files that
//! sops (`.sops.yaml`) and agenix (`secrets.nix`) use.

use std::path::{Path, PathBuf};

use trueup_secrets::rules::CreationRules;
use trueup_secrets::{Recipient, ScopeRule, agenix};

use super::{Failure, FileFormat, file, fleet::Fleet};
use crate::secrets::Readers;

/// Folders above a file that are searched, as sops does.
const LEVELS_MAX: usize = 100;

/// Who can read the file
#[derive(Debug, Default, clap::Args)]
pub(super) struct RecipientArgs {
    /// An age or SSH public key [default: by the Secret manifests, `.sops.yaml` or `secrets.nix`]
    #[arg(long = "recipient", value_name = "KEY")]
    recipients: Vec<String>,
}

/// What holds for a file that is written.
#[derive(Debug, Default)]
pub(super) struct For {
    pub groups: Vec<Vec<Recipient>>,
    pub threshold: Option<usize>,
    pub rule: ScopeRule,
    pub mac_only_encrypted: bool,
    /// Of an age file.
    pub armor: bool,
}

/// The first that knows the file says it all.
pub(super) fn of_file(
    path: &Path,
    format: FileFormat,
    args: &RecipientArgs,
) -> Result<For, Failure> {
    if !args.recipients.is_empty() {
        let group = args.recipients.iter().map(|text| Recipient::parse(text));
        let group = group.collect::<Result<Vec<_>, _>>();
        return Ok(For {
            groups: vec![group.map_err(Failure::format(path))?],
            ..For::default()
        });
    }
    let path = std::path::absolute(path).map_err(|source| Failure::File {
        what: "finding",
        path: path.to_owned(),
        source,
    })?;
    if let Some(found) = by_manifests(&path)? {
        return Ok(found);
    }
    let found = if format == FileFormat::Age {
        by_secrets_nix(&path)?
    } else {
        by_sops_yaml(&path)?
    };
    found.ok_or_else(|| {
        Failure::Refused(format!(
            "nothing says who may read {}: name them with --recipient, or select hosts in a `kind: Secret` with this `source`",
            path.display()
        ))
    })
}

/// The nearest file of that name in the folders above.
fn above(path: &Path, name: &str) -> Option<PathBuf> {
    let folders = path.ancestors().skip(1).take(LEVELS_MAX);
    folders.map(|dir| dir.join(name)).find(|p| p.is_file())
}

/// Hosts that a Secret with this source selects, and the admins.
fn by_manifests(path: &Path) -> Result<Option<For>, Failure> {
    let Some(fleet) = path.parent().and_then(Fleet::above) else {
        return Ok(None);
    };
    let Some(name) = fleet.name_of(path) else {
        return Ok(None);
    };
    let manifests = fleet.manifests()?;
    let readers = Readers::of(&manifests, &name);
    let groups = readers.map(|r| r.groups(None));
    Ok(groups.filter(|g| !g.concat().is_empty()).map(|groups| For {
        groups,
        ..For::default()
    }))
}

fn by_sops_yaml(path: &Path) -> Result<Option<For>, Failure> {
    let named = std::env::var_os("SOPS_CONFIG").filter(|v| !v.is_empty());
    let Some(config) = named
        .map(PathBuf::from)
        .or_else(|| above(path, ".sops.yaml"))
    else {
        return Ok(None);
    };
    let bytes = file::read(&config)?;
    let Some(rules) = CreationRules::parse(&bytes).map_err(Failure::format(&config))? else {
        return Ok(None);
    };
    let folder = config.parent().unwrap_or(Path::new("/"));
    let shown = path.strip_prefix(folder).unwrap_or(path);
    let rule = rules
        .for_path(&shown.to_string_lossy())
        .map_err(Failure::format(&config))?;
    Ok(Some(For {
        groups: rule.groups,
        threshold: rule.shamir_threshold,
        rule: rule.rule,
        mac_only_encrypted: rule.mac_only_encrypted,
        armor: false,
    }))
}

fn by_secrets_nix(path: &Path) -> Result<Option<For>, Failure> {
    let Some(config) = above(path, "secrets.nix") else {
        return Ok(None);
    };
    let bytes = file::read(&config)?;
    let text = String::from_utf8_lossy(&bytes);
    let all = agenix::Recipients::from_nix(&text).map_err(Failure::format(&config))?;
    let folder = config.parent().unwrap_or(Path::new("/"));
    let name = path.strip_prefix(folder).unwrap_or(path);
    let entry = all.0.get(name.to_string_lossy().as_ref()).cloned();
    let Some(entry) = entry else {
        return Err(Failure::Refused(format!(
            "{} has no entry `{}`",
            config.display(),
            name.display()
        )));
    };
    Ok(Some(For {
        groups: vec![entry.recipients],
        armor: entry.armor,
        ..For::default()
    }))
}
