use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use trueup_schema::kind::{FileMode, Owner, SecretFormat};
use trueup_schema::wire::{SecretFile, SecretPlace, SecretTemplate, SecretsGoal, secrets_digest};
use trueup_secrets::{EncryptSpec, Format, Recipient, ScopeRule};

use super::*;
use crate::files::Layout;

/// A host of its own in a folder: keys, state, memory.
struct World {
    dir: tempfile::TempDir,
    recipient: Recipient,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (secret, recipient) = trueup_secrets::generate_identity();
        use secrecy::ExposeSecret as _;
        fs::write(dir.path().join("key"), secret.expose_secret()).expect("written");
        Self { dir, recipient }
    }

    fn places(&self) -> Places {
        Places {
            root: self.dir.path().join("run"),
            mount: false,
        }
    }

    fn layout(&self) -> Layout {
        Layout {
            root: self.dir.path().join("state"),
        }
    }

    fn goal(&self, yaml: &str, secrets: &[(&str, &str)]) -> SecretsGoal {
        let spec = EncryptSpec {
            groups: vec![vec![self.recipient.clone()]],
            shamir_threshold: None,
            rule: ScopeRule::Default,
            mac_only_encrypted: false,
            now: "2026-11-22T01:02:03Z".parse().expect("a time"),
        };
        let sealed = trueup_secrets::encrypt(yaml.as_bytes(), Format::Yaml, &spec).expect("sealed");
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let place = |(name, key): &(&str, &str)| SecretPlace {
            name: (*name).to_owned(),
            file: 0,
            key: Some((*key).to_owned()),
            path: None,
            owner: Owner::Id(uid),
            group: Some(Owner::Id(gid)),
            mode: FileMode::FILE,
            directory_mode: FileMode::DIRECTORY,
            needed_for_users: false,
            restart_units: vec![format!("{name}.service")],
            reload_units: Vec::new(),
        };
        SecretsGoal {
            files: vec![SecretFile {
                source: "secrets/a.yaml".to_owned(),
                format: SecretFormat::Yaml,
                text: String::from_utf8(sealed).ok(),
                data: None,
            }],
            secrets: secrets.iter().map(place).collect(),
            templates: Vec::new(),
            identity_files: vec![
                "/nowhere/rsa_key".to_owned(),
                self.dir.path().join("key").display().to_string(),
            ],
            settle_secs: 0,
        }
    }

    fn put(&self, goal: &SecretsGoal) -> Result<units::Changes, SecretsError> {
        let opened = open(goal, &secrets_digest(goal), false)?;
        links::free(&self.places(), &opened)?;
        memory::ready(&self.places())?;
        let old = Generation::current(&self.places())?;
        let new = opened.write(&self.places())?;
        memory::switch(&self.places(), new.number)?;
        links::place(&self.places(), old.as_ref(), &new)?;
        Ok(units::changes(old.as_ref(), &new))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.places().link().join(name)).expect("there")
    }
}

#[test]
fn each_value_is_in_its_file_with_its_mode_and_a_template_has_them_all() {
    let world = World::new();
    let mut goal = world.goal(
        "db:\n  password: x1\n  user: app\n",
        &[("pw", "db/password"), ("user", "db/user")],
    );
    goal.secrets[0].mode = "0440".parse().expect("a mode");
    let deep = world.dir.path().join("srv/app/keys/pw");
    goal.secrets[0].path = Some(deep.display().to_string());
    goal.secrets[0].directory_mode = "0775".parse().expect("a mode");
    goal.templates.push(SecretTemplate {
        name: "app.conf".to_owned(),
        content: "<secret:user>:<secret:pw>\n".to_owned(),
        path: Some(
            world
                .dir
                .path()
                .join("etc/app/app.conf")
                .display()
                .to_string(),
        ),
        owner: goal.secrets[0].owner.clone(),
        group: goal.secrets[0].group.clone(),
        mode: FileMode::FILE,
        restart_units: vec!["app.service".to_owned()],
        reload_units: Vec::new(),
    });
    let changes = world.put(&goal).expect("put");
    assert_eq!(world.read("pw"), "x1");
    assert_eq!(world.read("rendered/app.conf"), "app:x1\n");
    let mode = |name: &str| {
        let meta = fs::metadata(world.places().link().join(name)).expect("there");
        meta.permissions().mode() & 0o7777
    };
    assert_eq!(
        (mode("pw"), mode("user"), mode("rendered")),
        (0o440, 0o400, 0o751)
    );
    // Folders that were made for a link: as they are asked for, whatever the umask.
    assert_eq!(fs::read_to_string(&deep).expect("linked"), "x1");
    for above in deep.ancestors().skip(1).take(3) {
        let meta = fs::metadata(above).expect("made");
        assert_eq!(meta.permissions().mode() & 0o7777, 0o775, "{above:?}");
    }
    let outside = fs::read_to_string(world.dir.path().join("etc/app/app.conf"));
    assert_eq!(outside.expect("linked"), "app:x1\n");
    assert_eq!(changes.restart.len(), 3);
}

#[test]
fn only_units_of_changed_secrets_are_concerned() {
    let world = World::new();
    let names = [("a", "a"), ("b", "b")];
    world
        .put(&world.goal("a: one\nb: two\n", &names))
        .expect("put");
    // The same values, sealed anew: nobody needs to know.
    let same = world
        .put(&world.goal("a: one\nb: two\n", &names))
        .expect("put");
    assert_eq!(same, units::Changes::default());
    let changed = world
        .put(&world.goal("a: one\nb: three\n", &names))
        .expect("put");
    assert_eq!(
        changed.restart.into_iter().collect::<Vec<_>>(),
        ["b.service"]
    );
    let mut wider = world.goal("a: one\nb: three\n", &names);
    wider.secrets[0].mode = "0440".parse().expect("a mode");
    let mode = world.put(&wider).expect("put");
    assert_eq!(mode.restart.into_iter().collect::<Vec<_>>(), ["a.service"]);
}

#[test]
fn what_is_no_longer_wanted_is_gone_with_its_link() {
    let world = World::new();
    let link = world.dir.path().join("link");
    let mut goal = world.goal("a: one\nb: two\n", &[("a", "a"), ("b", "b")]);
    goal.secrets[1].path = Some(link.display().to_string());
    world.put(&goal).expect("put");
    assert!(link.exists());
    world
        .put(&world.goal("a: one\n", &[("a", "a")]))
        .expect("put");
    assert!(fs::symlink_metadata(&link).is_err());
    assert!(!world.places().link().join("b").exists());
    memory::prune(&world.places()).expect("pruned");
    assert_eq!(
        fs::read_dir(world.places().generations())
            .expect("read")
            .count(),
        1
    );
}

#[test]
fn a_tampered_file_changes_nothing_and_is_named() {
    let world = World::new();
    world
        .put(&world.goal("a: one\n", &[("a", "a")]))
        .expect("put");
    let mut bad = world.goal("a: two\n", &[("a", "a")]);
    let text = bad.files[0].text.take().expect("text");
    let at = text.find("data:").expect("sealed") + 5;
    let other = if text.as_bytes()[at] == b'A' {
        "B"
    } else {
        "A"
    };
    bad.files[0].text = Some(format!("{}{other}{}", &text[..at], &text[at + 1..]));
    let error = world.put(&bad).expect_err("refused");
    assert!(error.is_evidence());
    let told = error.to_string();
    assert!(
        told.contains("secrets/a.yaml") && told.contains("`a`"),
        "{told}"
    );
    assert_eq!(world.read("a"), "one");
}

#[test]
fn a_key_that_opens_nothing_is_told_with_those_that_are_not_there() {
    let world = World::new();
    let mut goal = world.goal("a: one\n", &[("a", "a")]);
    goal.identity_files.pop();
    let told = world.put(&goal).expect_err("refused").to_string();
    assert!(told.contains("/nowhere/rsa_key is not there"), "{told}");
    // With the right key the missing one is nothing to speak of.
    assert!(world.put(&world.goal("a: one\n", &[("a", "a")])).is_ok());
}

#[test]
fn a_file_of_somebody_else_is_not_overwritten() {
    let world = World::new();
    let path = world.dir.path().join("precious");
    fs::write(&path, "mine").expect("written");
    let mut goal = world.goal("a: one\n", &[("a", "a")]);
    goal.secrets[0].path = Some(path.display().to_string());
    assert!(matches!(world.put(&goal), Err(SecretsError::Occupied(_))));
    assert_eq!(fs::read(&path).expect("there"), b"mine");
}

#[test]
fn a_reboot_brings_back_what_was_committed() {
    let world = World::new();
    let goal = world.goal("a: one\n", &[("a", "a")]);
    fs::create_dir_all(world.layout().root).expect("made");
    kept::keep(&world.layout(), &secrets_digest(&goal), &goal).expect("kept");
    assert!(!world.places().root.exists(), "nothing is left of memory");
    assert_eq!(
        restore(&world.layout(), &world.places(), true).expect("nothing for users"),
        0
    );
    assert_eq!(
        restore(&world.layout(), &world.places(), false).expect("restored"),
        1
    );
    assert_eq!(world.read("a"), "one");
    let first = memory::current(&world.places());
    assert_eq!(
        restore(&world.layout(), &world.places(), false).expect("again"),
        1
    );
    assert_eq!(
        memory::current(&world.places()),
        first,
        "what is right is left alone"
    );
    // A unit that starts in the middle of an attempt finds a newer set, and leaves it.
    world
        .put(&world.goal("a: two\n", &[("a", "a")]))
        .expect("put");
    restore(&world.layout(), &world.places(), false).expect("left alone");
    assert_eq!(world.read("a"), "two");
    let kept = fs::read_to_string(world.layout().file("secrets.json")).expect("there");
    assert!(!kept.contains("one"), "only ciphertext stays on the disk");
}

#[test]
fn a_changed_or_deleted_file_is_found() {
    let world = World::new();
    let goal = world.goal("a: one\nb: two\n", &[("a", "a"), ("b", "b")]);
    let digest = secrets_digest(&goal);
    fs::create_dir_all(world.layout().root).expect("made");
    world.put(&goal).expect("put");
    let look = || look(&world.layout(), &world.places(), Some(&digest));
    assert!(!look().lasting, "not committed yet");
    kept::keep(&world.layout(), &digest, &goal).expect("kept");
    assert!(look().lasting && look().digest == Some(digest.clone()));
    let file = world.places().link().join("a");
    let write = |text: &str| {
        let _gone = fs::remove_file(&file);
        fs::write(&file, text).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).expect("set");
    };
    write("one");
    assert_eq!(look().digest, Some(digest.clone()));
    write("onf");
    assert_eq!(look().differs, ["a was changed"]);
    fs::remove_file(&file).expect("removed");
    assert_eq!(look().differs, ["a is gone"]);
    fs::remove_file(world.places().link()).expect("removed");
    assert_eq!(look().differs, ["no secret is in place"]);
}

#[test]
fn without_any_secret_there_is_nothing_to_find() {
    let world = World::new();
    let none = secrets_digest(&SecretsGoal::default());
    let look = |confirmed| look(&world.layout(), &world.places(), confirmed);
    assert_eq!(look(Some(&none)).digest, Some(none.clone()));
    assert_eq!(look(None), Looked::default());
    assert!(!Path::new(&world.places().root).exists());
}

fn component(world: &World, goal: &SecretsGoal) -> SecretsComponent {
    SecretsComponent {
        goal: goal.clone(),
        digest: secrets_digest(goal),
        places: world.places(),
        opened: None,
    }
}

/// As a power cut leaves it: the disk has links, the memory is empty.
fn cut_the_power(world: &World) {
    fs::remove_dir_all(world.places().root).expect("forgotten");
}

#[test]
fn a_power_cut_in_the_first_delivery_leaves_no_dangling_link() {
    let world = World::new();
    let (link, other) = (
        world.dir.path().join("link"),
        world.dir.path().join("other"),
    );
    std::os::unix::fs::symlink("/somebody/else", &other).expect("linked");
    let mut goal = world.goal("a: one\nb: two\n", &[("a", "a"), ("b", "b")]);
    goal.secrets[0].path = Some(link.display().to_string());
    goal.secrets[1].path = Some(other.display().to_string());
    let opened = open(&goal, &secrets_digest(&goal), false).expect("opened");
    let before = Before {
        generation: None,
        links: Vec::new(),
        new_links: links::wanted(&opened),
        replaced: links::others(&world.places(), &opened),
    };
    fs::create_dir_all(world.layout().root).expect("made");
    world.put(&goal).expect("put");
    cut_the_power(&world);
    assert!(fs::symlink_metadata(&link).is_ok(), "it dangles");
    let part = component(&world, &goal);
    part.after_boot(&world.layout(), &before).expect("mended");
    assert!(fs::symlink_metadata(&link).is_err());
    let back = fs::read_link(&other).expect("there");
    assert_eq!(back, Path::new("/somebody/else"));
    // Again, as a second power cut would have it.
    part.after_boot(&world.layout(), &before).expect("mended");
}

#[test]
fn a_power_cut_in_a_later_delivery_keeps_the_links_that_there_were() {
    let world = World::new();
    let (link, new) = (world.dir.path().join("link"), world.dir.path().join("new"));
    let mut old = world.goal("a: one\n", &[("a", "a")]);
    old.secrets[0].path = Some(link.display().to_string());
    fs::create_dir_all(world.layout().root).expect("made");
    world.put(&old).expect("put");
    kept::keep(&world.layout(), &secrets_digest(&old), &old).expect("kept");
    let mut goal = world.goal("a: two\nb: two\n", &[("a", "a"), ("b", "b")]);
    goal.secrets[0].path.clone_from(&old.secrets[0].path);
    goal.secrets[1].path = Some(new.display().to_string());
    let now = Generation::current(&world.places())
        .expect("read")
        .expect("there");
    let before = Before {
        generation: Some(now.number),
        links: now.links(),
        new_links: vec![link.clone(), new.clone()],
        replaced: Vec::new(),
    };
    world.put(&goal).expect("put");
    cut_the_power(&world);
    restore(&world.layout(), &world.places(), false).expect("the early unit");
    let part = component(&world, &goal);
    part.after_boot(&world.layout(), &before).expect("mended");
    assert_eq!(fs::read_to_string(&link).expect("linked"), "one");
    assert!(fs::symlink_metadata(&new).is_err(), "no dangling link");
    assert_eq!(world.read("a"), "one");
}

#[test]
fn what_the_early_unit_brought_back_of_a_commit_that_does_not_last_goes_back() {
    let world = World::new();
    fs::create_dir_all(world.layout().root).expect("made");
    let old = world.goal("a: one\n", &[("a", "a")]);
    let new = world.goal("a: two\nb: three\n", &[("a", "a"), ("b", "b")]);
    // Committed, and the power went before the seal.
    kept::keep(&world.layout(), &secrets_digest(&new), &new).expect("kept");
    restore(&world.layout(), &world.places(), false).expect("the early unit");
    assert_eq!(world.read("a"), "two");
    // What `uncommit` does.
    kept::keep(&world.layout(), &secrets_digest(&old), &old).expect("kept");
    let part = component(&world, &new);
    let changes = part.after_boot(&world.layout(), &Before::default());
    assert_eq!(world.read("a"), "one");
    assert!(!world.places().link().join("b").exists());
    let restart = changes.expect("mended").restart;
    assert_eq!(restart.into_iter().collect::<Vec<_>>(), ["a.service"]);
    // The same where nothing was kept before.
    kept::keep(&world.layout(), &secrets_digest(&new), &new).expect("kept");
    cut_the_power(&world);
    restore(&world.layout(), &world.places(), false).expect("the early unit");
    fs::remove_file(world.layout().file("secrets.json")).expect("removed");
    part.after_boot(&world.layout(), &Before::default())
        .expect("mended");
    assert!(!world.places().link().exists());
}

#[test]
fn a_host_key_that_is_not_mounted_yet_is_waited_for() {
    let world = World::new();
    let mut goal = world.goal("a: one\n", &[("a", "a")]);
    let late = world.dir.path().join("persist/key");
    goal.identity_files = vec![late.display().to_string()];
    let error = world.put(&goal).expect_err("refused");
    assert!(!error.is_evidence(), "the next try may find it");
    let told = error.to_string();
    assert!(told.contains("persist/key is not there"), "{told}");
    fs::create_dir(late.parent().expect("a folder")).expect("mounted");
    fs::copy(world.dir.path().join("key"), &late).expect("there");
    world.put(&goal).expect("put");
    assert_eq!(world.read("a"), "one");
}

#[test]
fn a_process_that_holds_plain_text_leaves_no_core_and_is_not_swapped_out() {
    let world = World::new();
    world
        .put(&world.goal("a: one\n", &[("a", "a")]))
        .expect("put");
    let limits = fs::read_to_string("/proc/self/limits").expect("read");
    let core = limits.lines().find(|l| l.starts_with("Max core file size"));
    let words: Vec<&str> = core.expect("a line").split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"]);
    let dumpable = rustix::process::dumpable_behavior().expect("asked");
    assert_eq!(dumpable, rustix::process::DumpableBehavior::NotDumpable);
    if rustix::process::geteuid().is_root() {
        let status = fs::read_to_string("/proc/self/status").expect("read");
        let of = |name: &str| -> u64 {
            let line = status.lines().find_map(|l| l.strip_prefix(name));
            let number = line.expect("a line").trim().trim_end_matches(" kB");
            number.parse().expect("a number")
        };
        assert!(of("VmLck:") > 0, "nothing of it may be swapped out");
        assert_eq!(of("VmSwap:"), 0);
    }
}
