//! What differs between two closures: packages, sizes, units, what needs a reboot. From the closures themselves where
//! both are built, else from their derivations, else not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use trueup_engine::ports::Evaluated;
use trueup_schema::kind::Reboot as Policy;
use trueup_schema::{DrvPath, StorePath};

use super::document::{Effects, Known, Package, Packages, Reboot, Size};
use super::units::{self, Set, Unit};
use crate::edge::nix::{Derivation, Nix};

/// Links of a system that only a reboot brings, as the agent names them.
const PARTS: [(&str, &str); 5] = [
    ("kernel", "kernel"),
    ("initrd", "initrd"),
    ("kernel-modules", "modules"),
    ("firmware", "firmware"),
    ("systemd", "systemd"),
];
/// A text beside them.
const PARAMS: &str = "kernel-params";
/// Outputs of a package, which stand behind its version.
const OUTPUTS: [&str; 9] = [
    "-bin", "-dev", "-doc", "-info", "-lib", "-man", "-out", "-debug", "-data",
];
/// What is fetched or patched is no package.
const NO_PACKAGE: [&str; 9] = [
    ".gz", ".xz", ".bz2", ".zst", ".zip", ".patch", ".diff", ".crate", "-source",
];

/// From one to the other.
pub async fn compare(nix: &Nix, before: &Evaluated, after: &Evaluated, policy: Policy) -> Effects {
    let closures = (
        nix.contents(&before.out).await,
        nix.contents(&after.out).await,
    );
    if let (Some(old), Some(new)) = closures {
        let names = |c: &BTreeMap<StorePath, u64>| versions(c.keys().map(StorePath::name));
        let fresh = new.iter().filter(|(path, _)| !old.contains_key(*path));
        return Effects {
            packages: Some(Packages {
                known: Known::Closures,
                changes: packages(&names(&old), &names(&new), true),
            }),
            size: Some(Size {
                from: old.values().sum(),
                to: new.values().sum(),
                download: fresh.map(|(_, size)| size).sum(),
            }),
            units: units_of(nix, &before.out)
                .zip(units_of(nix, &after.out))
                .map(|(old, new)| units::effects(&old, &new)),
            reboot: Some(Reboot {
                known: Known::Closures,
                because: differ(&parts(nix, &before.out), &parts(nix, &after.out)),
                policy,
            }),
        };
    }
    derived(nix, before, after, policy).await
}

async fn derived(nix: &Nix, before: &Evaluated, after: &Evaluated, policy: Policy) -> Effects {
    let requisites = (
        nix.requisites(&before.drv).await,
        nix.requisites(&after.drv).await,
    );
    let (Some(old), Some(new)) = requisites else {
        return Effects::default();
    };
    let (old, new): (BTreeSet<DrvPath>, BTreeSet<DrvPath>) =
        (old.into_iter().collect(), new.into_iter().collect());
    let names = |drvs: &BTreeSet<DrvPath>| versions(drvs.iter().map(name_of));
    let changed = |drvs: &BTreeSet<DrvPath>, others: &BTreeSet<DrvPath>| -> Vec<DrvPath> {
        let units = drvs.difference(others).filter(|d| unit_of(d).is_some());
        units.cloned().collect()
    };
    let (mine, theirs) = (changed(&old, &new), changed(&new, &old));
    let mut asked = vec![before.drv.clone(), after.drv.clone()];
    asked.extend(mine.iter().chain(&theirs).cloned());
    asked.dedup();
    let shown = nix.derivations(&asked).await.unwrap_or_default();
    let set = |drvs: &[DrvPath]| -> Option<Set> {
        let unit = |d: &DrvPath| {
            let text = shown.get(d)?.env.get("text")?.clone();
            Some((unit_of(d)?.to_owned(), Unit { text, wanted: true }))
        };
        drvs.iter().map(unit).collect()
    };
    // NixOS makes each unit by a derivation of its own; a system without any keeps its units elsewhere.
    let has_units = new.iter().any(|d| unit_of(d).is_some());
    let part = |e: &Evaluated| shown.get(&e.drv).and_then(parts_of);
    Effects {
        packages: Some(Packages {
            known: Known::Derivations,
            changes: packages(&names(&old), &names(&new), false),
        }),
        size: None,
        units: has_units
            .then(|| set(&mine).zip(set(&theirs)))
            .flatten()
            .map(|(old, new)| units::effects(&old, &new)),
        reboot: part(before).zip(part(after)).map(|(old, new)| Reboot {
            known: Known::Derivations,
            because: differ(&old, &new),
            policy,
        }),
    }
}

fn name_of(drv: &DrvPath) -> &str {
    let name = drv
        .as_str()
        .get("/nix/store/".len() + 33..)
        .unwrap_or_default();
    name.trim_end_matches(".drv")
}

fn unit_of(drv: &DrvPath) -> Option<&str> {
    name_of(drv)
        .strip_prefix("unit-")
        .filter(|n| units::is_unit(n))
}

type Versions = BTreeMap<String, BTreeSet<String>>;

/// `nginx-1.27.3-doc` is version 1.27.3 of nginx: as Nix splits names, at the first hyphen before a digit.
fn versions<'a>(names: impl Iterator<Item = &'a str>) -> Versions {
    let mut found = Versions::new();
    for name in names {
        let no_package = NO_PACKAGE.iter().any(|end| name.ends_with(end));
        if no_package || name.starts_with("nixos-system-") || name.starts_with("unit-") {
            continue;
        }
        let at = name
            .match_indices('-')
            .find(|(n, _)| name[n + 1..].starts_with(|c: char| c.is_ascii_digit()));
        if let Some((at, _)) = at {
            let mut version = &name[at + 1..];
            for output in OUTPUTS {
                version = version.strip_suffix(output).unwrap_or(version);
            }
            let of = found.entry(name[..at].to_owned()).or_default();
            of.insert(version.to_owned());
        }
    }
    found
}

/// Where derivations tell, what only one side has is more often a tool of the build than a package of the host.
fn packages(old: &Versions, new: &Versions, one_sided: bool) -> Vec<Package> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let list = |of: &Versions, name: &String| -> Vec<String> {
        of.get(name).into_iter().flatten().cloned().collect()
    };
    let change = |name: &String| {
        let (from, to) = (list(old, name), list(new, name));
        let both = !from.is_empty() && !to.is_empty();
        (from != to && (both || one_sided)).then(|| Package {
            name: name.clone(),
            from,
            to,
        })
    };
    names.into_iter().filter_map(change).collect()
}

/// Units of a closure; drop-ins belong to their unit.
fn units_of(nix: &Nix, out: &StorePath) -> Option<Set> {
    let folder = Path::new(out.as_str()).join("etc/systemd/system");
    let names = nix.names(&folder)?;
    let mut wanted = BTreeSet::new();
    for name in names
        .iter()
        .filter(|n| n.ends_with(".wants") || n.ends_with(".requires"))
    {
        wanted.extend(nix.names(&folder.join(name)).unwrap_or_default());
    }
    let mut found = Set::new();
    for name in names.iter().filter(|n| units::is_unit(n)) {
        let mut text = nix.text(&folder.join(name)).unwrap_or_default();
        let drop_ins = folder.join(format!("{name}.d"));
        for part in nix.names(&drop_ins).unwrap_or_default() {
            text.push('\n');
            text.push_str(&nix.text(&drop_ins.join(part)).unwrap_or_default());
        }
        let wanted = wanted.contains(name);
        found.insert(name.clone(), Unit { text, wanted });
    }
    Some(found)
}

type Parts = BTreeMap<&'static str, String>;

fn parts(nix: &Nix, out: &StorePath) -> Parts {
    let out = PathBuf::from(out.as_str());
    let links = PARTS.iter().filter_map(|(file, name)| {
        let target = nix.target(&out.join(file))?;
        Some((*name, target.display().to_string()))
    });
    let params = nix
        .text(&out.join(PARAMS))
        .map(|text| (PARAMS, text.trim().to_owned()));
    links.chain(params).collect()
}

fn differ(old: &Parts, new: &Parts) -> Vec<String> {
    let names = PARTS.iter().map(|(_, name)| *name).chain([PARAMS]);
    names
        .filter(|name| old.get(name) != new.get(name))
        .map(str::to_owned)
        .collect()
}

/// The same, from the commands that make a toplevel: `ln -s …/bzImage $out/kernel`. Without a kernel nothing is known.
fn parts_of(drv: &Derivation) -> Option<Parts> {
    let mut found = Parts::new();
    let scripts = drv.env.get("buildCommand").into_iter().chain(&drv.args);
    for line in scripts.flat_map(|text| text.lines()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let part = |to: &str| {
            let to = to.trim_matches('"').strip_prefix("$out/")?.to_owned();
            PARTS
                .iter()
                .find(|(file, _)| *file == to)
                .map(|(_, name)| *name)
        };
        match words.as_slice() {
            ["ln", flags, from, to] if flags.starts_with("-s") => {
                if let Some(name) = part(to) {
                    found.insert(name, said(drv, from));
                }
            }
            ["echo", "-n", .., to] if to.ends_with("$out/kernel-params") => {
                let end = line.rfind('>').unwrap_or(line.len());
                let start = line.find("-n").map_or(0, |n| n + 2);
                let text = line.get(start..end).unwrap_or_default();
                found.insert(PARAMS, said(drv, text.trim()));
            }
            _ => {}
        }
    }
    found.contains_key("kernel").then_some(found)
}

/// A word of the script, with a variable that it begins with put in.
fn said(drv: &Derivation, word: &str) -> String {
    let word = word.trim_matches('"');
    let Some(rest) = word.strip_prefix('$') else {
        return word.to_owned();
    };
    let (name, rest) = match rest.strip_prefix('{').and_then(|r| r.split_once('}')) {
        Some(parts) => parts,
        None => {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            rest.split_at(end.unwrap_or(rest.len()))
        }
    };
    format!("{}{rest}", drv.env.get(name).map_or("", String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_from_names_as_nix_does() {
        let old = versions(
            [
                "nginx-1.27.3",
                "nginx-1.27.3-doc",
                "unit-a.service",
                "bash-5.2p37",
                "etc",
            ]
            .into_iter(),
        );
        let new = versions(["nginx-1.29.1", "bash-5.2p37", "jq-1.8", "x-1.0.tar.gz"].into_iter());
        let text = |p: &Package| format!("{} {} {}", p.name, p.from.join(","), p.to.join(","));
        let found: Vec<String> = packages(&old, &new, true).iter().map(text).collect();
        assert_eq!(found, ["jq  1.8", "nginx 1.27.3 1.29.1"]);
        let found: Vec<String> = packages(&old, &new, false).iter().map(text).collect();
        assert_eq!(found, ["nginx 1.27.3 1.29.1"]);
    }

    #[test]
    fn what_needs_a_reboot_is_read_from_the_commands_that_make_the_system() {
        let drv = |kernel: &str, params: &str| Derivation {
            env: BTreeMap::from([
                ("kernelParams".to_owned(), params.to_owned()),
                (
                    "buildCommand".to_owned(),
                    format!(
                        "ln -s {kernel}/bzImage $out/kernel\nln -s /i/initrd $out/initrd\n\
                         echo -n \"$kernelParams\" > $out/kernel-params\nln -s /etc $out/etc"
                    ),
                ),
            ]),
            args: Vec::new(),
        };
        let parts = |k, p| parts_of(&drv(k, p)).unwrap();
        assert_eq!(
            differ(&parts("/k1", "quiet"), &parts("/k1", "quiet")),
            [""; 0]
        );
        assert_eq!(
            differ(&parts("/k1", "quiet"), &parts("/k2", "loud")),
            ["kernel", "kernel-params"]
        );
        assert_eq!(parts_of(&Derivation::default()), None);
    }
}
