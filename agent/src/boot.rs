//! What a power cut would boot, by the loader that is found. It reads; only the closure's own script writes.

use std::fs;
use std::path::{Path, PathBuf};

use trueup_schema::StorePath;

use crate::files::{self, FileError};
use crate::{grub, oneshot};

/// The loader of containers: the next boot runs what `/sbin/init` names.
pub const INIT_LINK: &str = "init-link";
const INIT: &str = "sbin/init";
/// Where the EFI system partition is mounted.
const ESPS: [&str; 3] = ["boot", "efi", "boot/efi"];

/// What boots this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootDefault {
    /// Name of the loader, as in a report.
    pub loader: &'static str,
    /// The closure, if it could be told.
    pub closure: Option<StorePath>,
}

/// Looks at the host.
#[must_use]
pub fn detect() -> BootDefault {
    detect_in(Path::new("/"))
}

fn detect_in(root: &Path) -> BootDefault {
    let found = |loader, closure| BootDefault { loader, closure };
    for esp in ESPS {
        let esp = root.join(esp);
        if esp.join("loader/loader.conf").is_file() {
            let signed = esp.join("EFI/Linux").is_dir()
                && dir_names(&esp.join("EFI/Linux"))
                    .iter()
                    .any(|n| n.starts_with("nixos-"));
            let loader = if signed { "lanzaboote" } else { "systemd-boot" };
            return found(loader, systemd_boot(root, &esp));
        }
    }
    if root.join("boot/extlinux/extlinux.conf").is_file() {
        let text = files::text(root.join("boot/extlinux/extlinux.conf"));
        return found("extlinux", extlinux(&text));
    }
    if root.join("boot/grub/grub.cfg").is_file() {
        return found("grub", grub::default_closure(root));
    }
    if let Ok(target) = fs::read_link(root.join(INIT)) {
        let closure = target.to_str().and_then(init_closure);
        if closure.is_some() {
            return found(INIT_LINK, closure);
        }
    }
    let any = root.join("boot").is_dir() && !dir_names(&root.join("boot")).is_empty();
    found(if any { "unknown" } else { "none" }, None)
}

/// Makes the next boot of a container run this closure.
pub fn put_init_link(closure: &StorePath) -> Result<(), FileError> {
    put_init_link_in(Path::new("/"), closure)
}

fn put_init_link_in(root: &Path, closure: &StorePath) -> Result<(), FileError> {
    files::link(&Path::new(closure.as_str()).join("init"), &root.join(INIT))
}

/// Where a loader has its copies of kernels and initrds, if it makes any.
#[must_use]
pub fn copies(loader: &str) -> Option<PathBuf> {
    copies_in(Path::new("/"), loader)
}

fn copies_in(root: &Path, loader: &str) -> Option<PathBuf> {
    let places: &[&str] = match loader {
        "systemd-boot" | "lanzaboote" => &["boot/EFI/nixos", "efi/EFI/nixos", "boot/efi/EFI/nixos"],
        "grub" => &["boot/kernels"],
        "extlinux" => &["boot/nixos"],
        _ => &[],
    };
    let found = places.iter().map(|p| root.join(p)).find(|p| p.is_dir());
    // Before the first copy there is the partition alone.
    let partition = || entries_in(root)?.ancestors().nth(2).map(Path::to_owned);
    found.or_else(|| (loader == "systemd-boot").then(partition)?)
}

/// The folder of systemd-boot's entries.
pub(crate) fn entries_in(root: &Path) -> Option<PathBuf> {
    let entries = ESPS.iter().map(|esp| root.join(esp).join("loader/entries"));
    entries.into_iter().find(|dir| dir.is_dir())
}

pub(crate) fn dir_names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// `init=/nix/store/…/init` of a kernel command line.
pub(crate) fn init_closure(text: &str) -> Option<StorePath> {
    let at = text.find("/nix/store/")?;
    let end = text[at..].find("/init").map(|e| at + e)?;
    text[at..end].parse().ok()
}

fn first_init(text: &str) -> Option<StorePath> {
    let line = text.lines().find(|l| l.contains("init=/nix/store/"))?;
    let at = line.find("init=")?;
    init_closure(&line[at..])
}

fn systemd_boot(root: &Path, esp: &Path) -> Option<StorePath> {
    let conf = files::text(esp.join("loader/loader.conf"));
    // Chosen in the menu, or by `bootctl set-default`: it wins over the file.
    let chosen =
        oneshot::efi_default(root).filter(|id| esp.join("loader/entries").join(id).is_file());
    let by_file = || {
        conf.lines().find_map(|l| {
            let mut words = l.split_whitespace();
            (words.next() == Some("default")).then(|| words.next().unwrap_or("").to_owned())
        })
    };
    let default = chosen.or_else(by_file)?;
    if let Some(number) = default
        .strip_prefix("nixos-generation-")
        .and_then(|d| d.strip_suffix(".conf"))
        && number.bytes().all(|b| b.is_ascii_digit())
    {
        let entry = files::text(esp.join("loader/entries").join(&default));
        let by_entry = first_init(&entry);
        if by_entry.is_some() {
            return by_entry;
        }
        let link: PathBuf = root.join(format!("nix/var/nix/profiles/system-{number}-link"));
        return files::store_path(link);
    }
    if default.contains('/') || default.contains('*') {
        return None;
    }
    first_init(&files::text(esp.join("loader/entries").join(&default)))
}

fn extlinux(text: &str) -> Option<StorePath> {
    let word = |line: &str, key: &str| -> Option<String> {
        let mut words = line.split_whitespace();
        words
            .next()
            .is_some_and(|w| w.eq_ignore_ascii_case(key))
            .then(|| words.collect::<Vec<_>>().join(" "))
    };
    let default = text.lines().find_map(|l| word(l, "default"))?;
    let mut here = false;
    for line in text.lines() {
        if let Some(label) = word(line, "label") {
            here = label == default;
        }
        if here && let Some(path) = first_init(line) {
            return Some(path);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-nixos-system-a";

    #[test]
    fn a_systemd_boot_entry_names_the_closure() {
        let dir = tempfile::tempdir().expect("a folder");
        let loader = dir.path().join("boot/loader/entries");
        fs::create_dir_all(&loader).expect("made");
        fs::write(
            dir.path().join("boot/loader/loader.conf"),
            "timeout 3\ndefault nixos-generation-7.conf\n",
        )
        .expect("written");
        fs::write(
            loader.join("nixos-generation-7.conf"),
            format!("title NixOS\noptions init={A}/init loglevel=4\n"),
        )
        .expect("written");
        let got = detect_in(dir.path());
        assert_eq!(got.loader, "systemd-boot");
        assert_eq!(got.closure.map(|p| p.to_string()), Some(A.to_owned()));
    }

    #[test]
    fn extlinux_names_its_default_label() {
        let text = format!(
            "DEFAULT nixos-default\nLABEL nixos-1\n APPEND init=/nix/store/x/init\nLABEL nixos-default\n APPEND init={A}/init x\n"
        );
        assert_eq!(extlinux(&text).map(|p| p.to_string()), Some(A.to_owned()));
    }

    #[test]
    fn the_link_of_a_container_is_put_and_read_back() {
        let dir = tempfile::tempdir().expect("a folder");
        put_init_link_in(dir.path(), &A.parse().expect("a path")).expect("put");
        let got = detect_in(dir.path());
        assert_eq!(got.loader, INIT_LINK);
        assert_eq!(got.closure.map(|p| p.to_string()), Some(A.to_owned()));
    }

    #[test]
    fn before_the_first_copy_the_partition_itself_must_have_room() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(copies_in(dir.path(), "systemd-boot"), None);
        let esp = dir.path().join("boot");
        fs::create_dir_all(esp.join("loader/entries")).expect("made");
        assert_eq!(copies_in(dir.path(), "systemd-boot"), Some(esp.clone()));
        assert_eq!(copies_in(dir.path(), "extlinux"), None);
        fs::create_dir_all(esp.join("EFI/nixos")).expect("made");
        let copies = copies_in(dir.path(), "systemd-boot");
        assert_eq!(copies, Some(esp.join("EFI/nixos")));
    }

    #[test]
    fn an_empty_host_has_no_loader() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(detect_in(dir.path()).loader, "none");
    }
}
