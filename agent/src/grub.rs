//! GRUB's menu and environment, as NixOS' own script writes the one and GRUB's tools the other: what is booted by default,
//! and by which name an entry is asked for. It reads; `grub-reboot` and `grub-editenv` write.

use std::path::Path;

use trueup_schema::StorePath;

use crate::{boot, files};

const CFG: &str = "boot/grub/grub.cfg";
const ENVIRONMENT: &str = "boot/grub/grubenv";
/// Menus within menus: NixOS has three at most.
const DEPTH_MAX: usize = 8;

/// Whether this menu takes an entry that is to be booted once, and forgets it before it boots it.
pub(crate) fn forgets(root: &Path) -> bool {
    files::text(root.join(CFG)).contains("save_env next_entry")
}

/// A variable of the environment, unless it is empty.
pub(crate) fn variable(root: &Path, name: &str) -> Option<String> {
    let text = files::text(root.join(ENVIRONMENT));
    let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned());
    text.lines().find_map(value).filter(|v| !v.is_empty())
}

/// What is booted where nobody chooses and nothing is to be booted once.
pub(crate) fn default_closure(root: &Path) -> Option<StorePath> {
    let text = files::text(root.join(CFG));
    let items = menu(&text)?;
    let spec = default_spec(&text, || variable(root, "saved_entry"))?;
    boot::init_closure(pick(&items, &spec)?.init.as_deref()?)
}

/// The entry with this `init=`, as `grub-reboot` takes it: `menu>entry`. By names where they will do: after the menu has
/// changed a number would be another entry, and a name that is no more is the default.
pub(crate) fn place(root: &Path, init: &str) -> Option<String> {
    place_in(&menu(&files::text(root.join(CFG)))?, init)
}

/// An entry, or a menu of them.
#[derive(Debug)]
struct Item {
    title: String,
    id: Option<String>,
    init: Option<String>,
    items: Option<Vec<Item>>,
}

impl Item {
    fn is(&self, name: &str) -> bool {
        self.title == name || self.id.as_deref() == Some(name)
    }
}

/// What a brace opened.
enum Open {
    Item(Item),
    Other,
}

/// `None`: its braces do not match, or it is too deep.
fn menu(text: &str) -> Option<Vec<Item>> {
    let mut top: Vec<Item> = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(item) = begun(line) {
            open.push(Open::Item(item));
        } else if line.ends_with('{') {
            open.push(Open::Other);
        } else if line == "}" {
            if let Open::Item(item) = open.pop()? {
                let above = open.iter_mut().rev().find_map(|o| match o {
                    Open::Item(item) => item.items.as_mut(),
                    Open::Other => None,
                });
                above.unwrap_or(&mut top).push(item);
            }
        } else if let Some(init) = line.split_whitespace().find(|w| w.starts_with("init=")) {
            let entry = open.iter_mut().rev().find_map(|o| match o {
                Open::Item(item) if item.items.is_none() => Some(item),
                _ => None,
            });
            if let Some(entry) = entry {
                entry.init.get_or_insert_with(|| init.to_owned());
            }
        }
        if open.len() > DEPTH_MAX {
            return None;
        }
    }
    open.is_empty().then_some(top)
}

/// `menuentry "Title" --class x --id y {`
fn begun(line: &str) -> Option<Item> {
    let (word, rest) = line.split_once(char::is_whitespace)?;
    let items = match word {
        "menuentry" => None,
        "submenu" => Some(Vec::new()),
        _ => return None,
    };
    let (title, options) = word_of(rest.trim_start());
    let mut words = options.split_whitespace();
    let id = words
        .find(|w| matches!(*w, "--id" | "$menuentry_id_option"))
        .and_then(|_| words.next())
        .map(|w| w.trim_matches(['"', '\'']).to_owned());
    Some(Item {
        title,
        id,
        init: None,
        items,
    })
}

/// The first word, quoted or not, as it is written; and what follows.
fn word_of(text: &str) -> (String, &str) {
    let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        return (word.to_owned(), rest);
    };
    let inner = &text[1..];
    let mut escaped = false;
    for (at, c) in inner.char_indices() {
        if c == quote && !escaped {
            return (inner[..at].to_owned(), &inner[at + 1..]);
        }
        escaped = c == '\\' && !escaped && quote == '"';
    }
    (inner.to_owned(), "")
}

/// What `default` is set to where nothing is booted once. `None`: by a variable of which nothing is known.
fn default_spec(text: &str, saved: impl Fn() -> Option<String>) -> Option<String> {
    let set = text
        .lines()
        .map(str::trim)
        .take_while(|l| begun(l).is_none())
        .filter_map(|l| l.strip_prefix("set default="))
        .filter(|v| !v.contains("next_entry"))
        .last()
        .map_or("0", |v| v.trim_matches(['"', '\'']));
    match set {
        "${saved_entry}" | "$saved_entry" => Some(saved().unwrap_or_else(|| "0".to_owned())),
        other if other.contains('$') => None,
        other => Some(other.to_owned()),
    }
}

/// The first name of `menu>entry`, in which `>>` is a letter, and what follows it.
fn split(spec: &str) -> (String, &str) {
    let mut name = String::new();
    let mut letters = spec.char_indices().peekable();
    while let Some((at, c)) = letters.next() {
        if c == '>' && letters.next_if(|(_, next)| *next == '>').is_none() {
            return (name, &spec[at + 1..]);
        }
        name.push(c);
    }
    (name, "")
}

/// As GRUB takes it: a number, a title or an id, and the first entry where there is no such.
fn pick<'a>(items: &'a [Item], spec: &str) -> Option<&'a Item> {
    let (name, rest) = split(spec);
    let found = match name.parse::<usize>() {
        Ok(number) => items.get(number),
        Err(_) => items.iter().find(|i| i.is(&name)),
    };
    let item = found.or(items.first())?;
    match &item.items {
        Some(inner) => pick(inner, rest),
        None => Some(item),
    }
}

fn place_in(items: &[Item], init: &str) -> Option<String> {
    for (number, item) in items.iter().enumerate() {
        let name = || name_of(items, number, item);
        match &item.items {
            Some(inner) => {
                if let Some(rest) = place_in(inner, init) {
                    return Some(format!("{}>{rest}", name()));
                }
            }
            None if item.init.as_deref() == Some(init) => return Some(name()),
            None => {}
        }
    }
    None
}

/// By its title, if that is the only one and means nothing else to a shell, to GRUB or to its tools.
fn name_of(items: &[Item], number: usize, item: &Item) -> String {
    let title = &item.title;
    let begins = title.chars().next();
    let plain = begins.is_some_and(|c| !c.is_ascii_digit() && !c.is_whitespace() && c != '-')
        && !title.contains(['$', '`', '\\', '"', '>']);
    if plain && items.iter().filter(|i| i.is(title)).count() == 1 {
        title.clone()
    } else {
        number.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const STORE: &str = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz";

    /// The shape of NixOS' own: a default, its generations, one of them with a specialisation, and a profile's.
    fn cfg(default: &str) -> String {
        format!(
            r#"# Automatically generated.
search --set=drive1 --fs-uuid 1234
if [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${{next_entry}}" ]; then
  set default="${{next_entry}}"
  set next_entry=
  save_env next_entry
  set timeout=1
  set boot_once=true
else
  set default={default}
  set timeout=5
fi
function savedefault {{
    if [ -z "${{boot_once}}"]; then
    saved_entry="${{chosen}}"
    save_env saved_entry
    fi
}}
menuentry "Memory test" --id memtest {{
  linux16 ($drive1)/memtest.bin
}}
menuentry "NixOS" --class nixos --unrestricted {{
search --set=drive1 --fs-uuid 1234
  linux ($drive1)//nix/store/x-linux/bzImage init={STORE}-new/init loglevel=4
  initrd ($drive1)//nix/store/x-initrd/initrd
}}
submenu "NixOS - All configurations" --class submenu {{
menuentry "NixOS - Configuration 8 (2026-11-22 - 26.05)" --class nixos {{
  linux ($drive1)//nix/store/x-linux/bzImage init={STORE}-new/init loglevel=4
}}
submenu "> NixOS - Configuration 7 (2026-11-21 - 26.05)" --class submenu {{
menuentry "NixOS - Configuration 7 - Default (2026-11-21 - 26.05)" {{
  linux ($drive1)//nix/store/x-linux/bzImage init={STORE}-old/init loglevel=4
}}
menuentry "NixOS - Configuration 7 - (slow - 2026-11-21 - 26.05)" {{
  linux ($drive1)//nix/store/x-linux/bzImage init={STORE}-old-slow/init loglevel=4
}}
}}
}}
submenu "NixOS - Profile 'trueup'" --class submenu {{
menuentry "NixOS - Configuration 1 (2026-11-22 - 26.05)" --class nixos {{
  linux ($drive1)//nix/store/x-linux/bzImage init={STORE}-once/init loglevel=4
}}
}}
"#
        )
    }

    fn root(cfg: &str, environment: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("boot/grub")).unwrap();
        fs::write(dir.path().join(CFG), cfg).unwrap();
        fs::write(
            dir.path().join(ENVIRONMENT),
            format!("# GRUB Environment Block\n{environment}####"),
        )
        .unwrap();
        dir
    }

    #[test]
    fn an_entry_is_named_by_its_titles_and_by_numbers_where_a_title_would_mislead() {
        let dir = root(&cfg("1"), "");
        let place = |name: &str| place(dir.path(), &format!("init={STORE}-{name}/init"));
        let once = "NixOS - Profile 'trueup'>NixOS - Configuration 1 (2026-11-22 - 26.05)";
        assert_eq!(place("once").as_deref(), Some(once));
        assert_eq!(place("new").as_deref(), Some("NixOS"));
        assert_eq!(
            place("old-slow").as_deref(),
            Some(
                "NixOS - All configurations>1>NixOS - Configuration 7 - (slow - 2026-11-21 - 26.05)"
            )
        );
        assert_eq!(place("none"), None);
        // What is named is what GRUB finds by that name.
        let items = menu(&cfg("1")).unwrap();
        for name in ["once", "new", "old", "old-slow"] {
            let found = pick(&items, &place(name).unwrap()).unwrap();
            let init = format!("init={STORE}-{name}/init");
            assert_eq!(found.init.as_deref(), Some(init.as_str()));
        }
        let twins = "menuentry \"a\" {\nlinux k init=/x/init\n}\nmenuentry \"a\" {\nlinux k init=/y/init\n}\n";
        let dir = root(twins, "");
        assert_eq!(
            super::place(dir.path(), "init=/y/init").as_deref(),
            Some("1")
        );
    }

    #[test]
    fn the_default_is_the_entry_that_is_named_and_not_the_first() {
        let saved = "saved_entry=NixOS - All configurations>>> NixOS - Configuration 7 (2026-11-21 - 26.05)>1\n";
        for (default, environment, closure) in [
            ("1", "", Some("new")),
            ("1", "next_entry=3>0\n", Some("new")),
            ("\"3>0\"", "", Some("once")),
            ("2", "", Some("new")),
            ("NixOS", "", Some("new")),
            ("memtest", "", None),
            ("0", "", None),
            ("99", "", None),
            ("\"${saved_entry}\"", "saved_entry=1\n", Some("new")),
            ("\"${saved_entry}\"", "saved_entry=2>1>0\n", Some("old")),
            ("\"${saved_entry}\"", "", None),
            ("\"${other}\"", "", None),
            // A title that begins with `>` can't be told from a menu's end by GRUB either: it boots the first entry then.
            ("\"${saved_entry}\"", saved, None),
        ] {
            let dir = root(&cfg(default), environment);
            assert_eq!(
                default_closure(dir.path()).map(|c| c.to_string()),
                closure.map(|c| format!("{STORE}-{c}")),
                "{default} {environment}"
            );
        }
    }

    #[test]
    fn a_menu_that_is_cut_off_has_no_default() {
        let whole = cfg("1");
        let dir = root(&whole[..whole.len() - 3], "");
        assert_eq!(default_closure(dir.path()), None);
        assert!(menu(&"submenu a {\n".repeat(100)).is_none());
    }

    #[test]
    fn a_variable_that_was_emptied_is_not_set() {
        let dir = root(&cfg("1"), "next_entry=\nsaved_entry=2>0\n");
        assert_eq!(variable(dir.path(), "next_entry"), None);
        assert_eq!(variable(dir.path(), "saved_entry").as_deref(), Some("2>0"));
        assert!(forgets(dir.path()));
    }
}
