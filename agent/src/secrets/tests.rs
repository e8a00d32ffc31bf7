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
