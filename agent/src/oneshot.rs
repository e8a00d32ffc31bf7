//! Booting an entry once, and the boot default again after that: which loaders here can, by their own tools and
//! variables. It finds entries, sets, reads back and clears; what is booted, and when, is not its business.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use trueup_schema::StorePath;

use crate::{boot, exec, files, grub};

/// EFI variables of systemd-boot: the vendor's number is a part of the name.
const EFI_VARS: &str = "sys/firmware/efi/efivars";
const LOADER: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// A variable begins with four bytes of attributes.
const ATTRIBUTES: usize = 4;
/// `LoaderFeatures`: it knows `LoaderEntryOneShot`.
const CAN_ONE_SHOT: u64 = 1 << 3;
/// The loader's tool.
const LIMIT: Duration = Duration::from_secs(60);
/// File systems that GRUB reads and can't write, so that it could not forget the entry: it would boot it for ever.
const GRUB_READS_ONLY: [&str; 4] = ["btrfs", "zfs", "bcachefs", "f2fs"];

/// A loader that can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OneShot {
    /// By `bootctl set-oneshot` and its EFI variable.
    SystemdBoot,
    /// By `grub-reboot` and `next_entry` of its environment.
    Grub,
}

/// Can the loader of this name do it, here? Else why not, for people.
pub fn of(loader: &str) -> Result<OneShot, String> {
    of_in(Path::new("/"), loader).and_then(|can| {
        let tool = match can {
            OneShot::SystemdBoot => "bootctl",
            OneShot::Grub => "grub-reboot",
        };
        exec::tool(tool).map_err(|_| format!("{loader} could, but there is no `{tool}` here"))?;
        Ok(can)
    })
}

fn of_in(root: &Path, loader: &str) -> Result<OneShot, String> {
    match loader {
        "systemd-boot" => {
            if variable(root, "LoaderInfo").is_none() {
                return Err(
                    "the host was not booted by systemd-boot with EFI variables that can be read"
                        .to_owned(),
                );
            }
            let features = variable(root, "LoaderFeatures").map(|bytes| number(&bytes));
            if features.is_some_and(|f| f & CAN_ONE_SHOT == 0) {
                return Err("this systemd-boot knows no one-shot entries".to_owned());
            }
            Ok(OneShot::SystemdBoot)
        }
        "grub" => {
            if !grub::forgets(root) {
                return Err("this grub.cfg does not look at `next_entry`".to_owned());
            }
            let mounts = files::text(root.join("proc/self/mounts"));
            let (source, kind) = mounted(&mounts, "/boot/grub");
            if GRUB_READS_ONLY.contains(&kind.as_str())
                || ["/dev/mapper/", "/dev/md", "/dev/dm-"]
                    .iter()
                    .any(|p| source.starts_with(p))
            {
                return Err(format!(
                    "GRUB can't write its environment on {source} ({kind})"
                ));
            }
            Ok(OneShot::Grub)
        }
        other => Err(format!("the {other} loader can't boot an entry once")),
    }
}

/// The entry that boots this closure, as the loader names it; one of the profile of ours before others.
#[must_use]
pub fn entry(can: OneShot, closure: &StorePath) -> Option<String> {
    entry_in(Path::new("/"), can, closure)
}

fn entry_in(root: &Path, can: OneShot, closure: &StorePath) -> Option<String> {
    let init = format!("init={closure}/init");
    match can {
        OneShot::SystemdBoot => {
            let dir = boot::entries_in(root)?;
            let boots = |name: &String| {
                let text = files::text(dir.join(name));
                text.split_whitespace().any(|word| word == init)
            };
            let mut names: Vec<String> = boot::dir_names(&dir)
                .into_iter()
                .filter(|n| n.ends_with(".conf"))
                .filter(boots)
                .collect();
            names.sort_by_key(|n| !n.contains("trueup"));
            names.into_iter().next()
        }
        OneShot::Grub => grub::place(root, &init),
    }
}

/// Sets it, and reads it back.
pub fn set(can: OneShot, entry: &str) -> Result<(), String> {
    let told = match can {
        OneShot::SystemdBoot => exec::tool_ok("bootctl", &["set-oneshot", entry], LIMIT),
        OneShot::Grub => exec::tool_ok("grub-reboot", &["--boot-directory=/boot", entry], LIMIT),
    };
    told.map_err(|e| e.to_string())?;
    match get(can) {
        Some(now) if now == entry => Ok(()),
        now => Err(format!(
            "the loader was told to boot {entry} once, and its own record says {}",
            now.as_deref().unwrap_or("nothing")
        )),
    }
}

/// What is set now.
#[must_use]
pub fn get(can: OneShot) -> Option<String> {
    get_in(Path::new("/"), can)
}

fn get_in(root: &Path, can: OneShot) -> Option<String> {
    match can {
        OneShot::SystemdBoot => text_of(&variable(root, "LoaderEntryOneShot")?),
        OneShot::Grub => grub::variable(root, "next_entry"),
    }
}

/// Nothing is booted once any more.
pub fn clear(can: OneShot) -> Result<(), String> {
    if get(can).is_none() {
        return Ok(());
    }
    let told = match can {
        OneShot::SystemdBoot => exec::tool_ok("bootctl", &["set-oneshot", ""], LIMIT),
        OneShot::Grub => exec::tool_ok(
            "grub-editenv",
            &["/boot/grub/grubenv", "unset", "next_entry"],
            LIMIT,
        ),
    };
    told.map(|_| ()).map_err(|e| e.to_string())
}

/// What overrides the default of loader.conf, if anything does.
pub(crate) fn efi_default(root: &Path) -> Option<String> {
    text_of(&variable(root, "LoaderEntryDefault")?)
}

/// A variable's value, without its attributes.
fn variable(root: &Path, name: &str) -> Option<Vec<u8>> {
    let path = root.join(EFI_VARS).join(format!("{name}-{LOADER}"));
    let bytes = files::read_bounded(&path).ok().flatten()?;
    bytes.get(ATTRIBUTES..).map(<[u8]>::to_vec)
}

/// UTF-16 with its end.
fn text_of(bytes: &[u8]) -> Option<String> {
    let units: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|c| u16::from_le_bytes([c[0], c[1]]))
        .take_while(|unit| *unit != 0)
        .collect();
    String::from_utf16(&units)
        .ok()
        .filter(|text| !text.is_empty())
}

fn number(bytes: &[u8]) -> u64 {
    let eight = bytes.iter().take(8).rev();
    eight.fold(0, |n, b| n << 8 | u64::from(*b))
}

/// Device and file system of the mount that a path lies on.
fn mounted(mounts: &str, path: &str) -> (String, String) {
    let mut best: (usize, String, String) = (0, String::new(), String::new());
    for line in mounts.lines() {
        let mut words = line.split_whitespace();
        let (Some(source), Some(at), Some(kind)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let below =
            at == "/" || path == at || path.strip_prefix(at).is_some_and(|r| r.starts_with('/'));
        if below && at.len() >= best.0 {
            best = (at.len(), source.to_owned(), kind.to_owned());
        }
    }
    (best.1, best.2)
}

/// Takes away the links of a profile, so that the loader lists it no more.
pub fn forget_profile(profile: &Path) {
    let (Some(dir), Some(name)) = (
        profile.parent(),
        profile.file_name().and_then(|n| n.to_str()),
    ) else {
        return;
    };
    let ours = |n: &str| {
        n == name
            || n.strip_prefix(name)
                .and_then(|r| r.strip_prefix('-'))
                .and_then(|r| r.strip_suffix("-link"))
                .is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
    };
    let found: Vec<PathBuf> = boot::dir_names(dir)
        .iter()
        .filter(|n| ours(n))
        .map(|n| dir.join(n))
        .collect();
    for link in found {
        let _gone = fs::remove_file(link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-nixos-system-a";

    fn put(root: &Path, name: &str, text: &str) {
        let dir = root.join(EFI_VARS);
        fs::create_dir_all(&dir).unwrap();
        let mut bytes = vec![7, 0, 0, 0];
        for unit in text.encode_utf16().chain([0]) {
            bytes.extend(unit.to_le_bytes());
        }
        fs::write(dir.join(format!("{name}-{LOADER}")), bytes).unwrap();
    }

    #[test]
    fn systemd_boot_can_where_it_booted_the_host() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            of_in(dir.path(), "systemd-boot").is_err(),
            "no EFI variables"
        );
        put(dir.path(), "LoaderInfo", "systemd-boot 257");
        assert_eq!(of_in(dir.path(), "systemd-boot"), Ok(OneShot::SystemdBoot));
        assert_eq!(get_in(dir.path(), OneShot::SystemdBoot), None);
        put(
            dir.path(),
            "LoaderEntryOneShot",
            "nixos-trueup-generation-1.conf",
        );
        assert_eq!(
            get_in(dir.path(), OneShot::SystemdBoot).as_deref(),
            Some("nixos-trueup-generation-1.conf")
        );
    }

    #[test]
    fn a_loader_that_says_it_knows_no_one_shot_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "LoaderInfo", "systemd-boot 240");
        let features = dir
            .path()
            .join(EFI_VARS)
            .join(format!("LoaderFeatures-{LOADER}"));
        fs::write(&features, [6, 0, 0, 0, 0b0111, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert!(of_in(dir.path(), "systemd-boot").is_err());
        fs::write(&features, [6, 0, 0, 0, 0b1111, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert!(of_in(dir.path(), "systemd-boot").is_ok());
    }

    #[test]
    fn others_are_refused_by_name() {
        for loader in ["extlinux", "lanzaboote", "init-link", "none", "unknown"] {
            let why = of_in(Path::new("/nowhere"), loader).unwrap_err();
            assert!(why.contains(loader), "{why}");
        }
    }

    #[test]
    fn the_entry_of_our_profile_comes_before_a_generation_of_the_same_closure() {
        let dir = tempfile::tempdir().unwrap();
        let entries = dir.path().join("boot/loader/entries");
        fs::create_dir_all(&entries).unwrap();
        fs::write(
            dir.path().join("boot/loader/loader.conf"),
            "default x.conf\n",
        )
        .unwrap();
        for name in ["nixos-generation-7.conf", "nixos-trueup-generation-1.conf"] {
            fs::write(
                entries.join(name),
                format!("title NixOS\noptions init={A}/init loglevel=4\n"),
            )
            .unwrap();
        }
        let found = entry_in(dir.path(), OneShot::SystemdBoot, &A.parse().unwrap());
        assert_eq!(found.as_deref(), Some("nixos-trueup-generation-1.conf"));
        let other = A.replace("-a", "-ab").parse().unwrap();
        assert_eq!(entry_in(dir.path(), OneShot::SystemdBoot, &other), None);
    }

    #[test]
    fn grub_can_only_where_it_can_forget() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("boot/grub")).unwrap();
        fs::create_dir_all(dir.path().join("proc/self")).unwrap();
        fs::write(
            dir.path().join("boot/grub/grub.cfg"),
            "set next_entry=\nsave_env next_entry\n",
        )
        .unwrap();
        let mounts = dir.path().join("proc/self/mounts");
        for (line, can) in [
            ("/dev/sda1 / ext4 rw 0 0\n", true),
            ("/dev/sda1 / btrfs rw 0 0\n", false),
            (
                "/dev/sda1 / btrfs rw 0 0\n/dev/sda2 /boot vfat rw 0 0\n",
                true,
            ),
            ("/dev/mapper/vg-root / ext4 rw 0 0\n", false),
        ] {
            fs::write(&mounts, line).unwrap();
            assert_eq!(of_in(dir.path(), "grub").is_ok(), can, "{line}");
        }
        fs::write(
            dir.path().join("boot/grub/grubenv"),
            "# GRUB Environment Block\nnext_entry=2>0\n####",
        )
        .unwrap();
        assert_eq!(get_in(dir.path(), OneShot::Grub).as_deref(), Some("2>0"));
    }

    #[test]
    fn only_the_links_of_the_named_profile_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "trueup",
            "trueup-1-link",
            "trueup-22-link",
            "trueup-two-1-link",
            "other-1-link",
        ] {
            std::os::unix::fs::symlink("/nowhere", dir.path().join(name)).unwrap();
        }
        forget_profile(&dir.path().join("trueup"));
        assert_eq!(
            boot::dir_names(dir.path()),
            ["other-1-link", "trueup-two-1-link"]
        );
    }
}
