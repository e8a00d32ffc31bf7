//! A host's own key is rotated while it runs: added, files sealed to both, delivered, replaced on the host, the old one
//! removed. Every step is a command that a person types; the host is Ready and has its secret all the while.

use secrecy::ExposeSecret as _;
use trueup_secrets::{Encrypted, Identities, Mac};

use super::*;

const WEB_1: &str = "web-1";
const KEY: &str = "/etc/ssh/ssh_host_ed25519_key";

/// `trueup secrets …` in the fleet's repository, as an admin; what it said.
fn secrets(world: &World, admin: &Path, args: &[&str]) -> (String, String) {
    let (repo, admin) = (world.repo(), admin.display().to_string());
    let repo = repo.display().to_string();
    let more = ["--repo", &repo, "--identity", &admin];
    let out = world.call(&[&["secrets"], args, &more].concat()).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, code, err) = (text(out.stdout), out.status.code(), text(out.stderr));
    assert_eq!(code, Some(0), "{args:?}: {out}{err}");
    (out, err)
}

fn age_form(key: &str) -> String {
    trueup_secrets::ssh_public_to_age(key).unwrap()
}

#[test]
fn a_hosts_own_key_is_rotated_and_it_never_misses_a_secret() {
    let Some(mut world) = world(&[WEB_1]) else {
        return;
    };
    let (private, admin) = trueup_secrets::generate_identity();
    let key_file = world.dir().join("admin.txt");
    fs::write(&key_file, private.expose_secret()).unwrap();
    let admins = format!("spec:\n  secrets: {{admins: [{admin}]}}\n");
    let with_admin = |text: String| text.replacen("spec:\n", &admins, 1);
    world.edit("fleet/fleet.yaml", with_admin).unwrap();
    put(&world, &seal(&world, FIRST, &[WEB_1]));
    declare(&world, &manifest("role=web", "root", "web.service"));
    // The file is the host's alone until the manifests have their way: an admin can't read it, so the host's key does.
    let old_private = world.dir().join("host-key");
    let old_pem = world.host(WEB_1).read(&["cat", KEY]) + "\n";
    fs::write(&old_private, &old_pem).unwrap();
    let (repo, old) = (
        world.repo().display().to_string(),
        old_private.display().to_string(),
    );
    let first = ["secrets", "updatekeys", "--all", "--repo", &repo];
    world
        .trueup(
            &[
                &first[..],
                &["--ssh-to-age-identity", &old, "--ssh-identity", &old],
            ]
            .concat(),
        )
        .unwrap();
    world.commit("a token for web", &[]).unwrap();
    world.start_and_wait().unwrap();
    world.all_ready(&[WEB_1]).unwrap();
    assert!(holds(world.host(WEB_1), FIRST));

    // Added.
    let host = world.host(WEB_1).clone();
    host.read(&[
        "ssh-keygen",
        "-q",
        "-t",
        "ed25519",
        "-N",
        "",
        "-f",
        "/etc/ssh/next",
    ]);
    let public = host.read(&["cut", "-d ", "-f1,2", "/etc/ssh/next.pub"]);
    let both = format!("\"{}\", \"{public}\"", host.host_key);
    let quoted = format!("\"{}\"", host.host_key);
    world.edit_host(WEB_1, &quoted, &both).unwrap();
    // Sealed to both, with one command.
    let (out, _) = secrets(&world, &key_file, &["updatekeys", "--all"]);
    assert!(out.contains(&format!("+ {}", age_form(&public))), "{out}");
    // Delivered, and confirmed.
    world.commit("the next key of web-1", &[]).unwrap();
    world.all_ready(&[WEB_1]).unwrap();
    assert!(holds(&host, FIRST));

    // Replaced. It is the same host to the controller, and opens what it was sent.
    let known = fs::read_to_string(&host.known_hosts).unwrap();
    fs::write(
        &host.known_hosts,
        format!("{known}{} {public}\n", host.address),
    )
    .unwrap();
    let replaced = host.sh(&format!(
        "mv /etc/ssh/next {KEY} && mv /etc/ssh/next.pub {KEY}.pub && systemctl restart sshd"
    ));
    assert_eq!(replaced.code, 0, "{replaced:?}");
    host.read(&["rm", FILE]);
    arrives(&world, WEB_1, FIRST);
    world.all_ready(&[WEB_1]).unwrap();

    // The old one goes, and what it could read is said.
    world
        .edit_host(WEB_1, &both, &format!("\"{public}\""))
        .unwrap();
    let (out, err) = secrets(&world, &key_file, &["updatekeys", "--all"]);
    // As the file had it.
    let gone = &host.host_key;
    assert!(out.contains(&format!("- {gone}")), "{out}");
    assert!(
        err.contains(&format!(
            "{gone} has read the values and can read every older commit"
        )),
        "{err}"
    );
    // So the value becomes another.
    let file = world.repo().join("secrets/web.yaml");
    let mut old_key = Identities::new();
    old_key.add_host_key(old_pem.as_bytes()).unwrap();
    let mut admin_key = Identities::new();
    admin_key.add_age(private.expose_secret()).unwrap();
    let now = "2026-11-23T01:02:03Z".parse().unwrap();
    let sealed = Encrypted::parse(&fs::read(&file).unwrap(), Format::Yaml).unwrap();
    assert!(sealed.decrypt(&old_key, Mac::Verify).is_err());
    let value = serde_json::json!(SECOND).to_string();
    let new = sealed.set(&admin_key, "web/token", &value, now).unwrap();
    fs::write(&file, new.unwrap()).unwrap();
    world.commit("the old key of web-1 is gone", &[]).unwrap();
    world.all_ready(&[WEB_1]).unwrap();
    assert!(holds(&host, SECOND));
}
