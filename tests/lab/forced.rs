//! Behind a forced command: what the controller's key may ask for on a host, and what is refused there. The whole loop runs
//! over it, as root and as a login that becomes root for the agent alone.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use trueup::edge::keys::FleetKey;
use trueup_engine::ports::Signer as _;
use trueup_schema::wire::{Intent, OfferReply};
use trueup_tests::world::{Stage, World};

use crate::controller::{put_sudo, switched};
use crate::harness::{Host, Lab, Output, command};

/// Root, and another who becomes root.
const ROOT: &str = "web-1";
const BECOMES: &str = "web-2";
const HOSTS: [&str; 2] = [ROOT, BECOMES];
const LOGIN: &str = "deploy";
/// Where the controller brought it, before its key was restricted.
const AGENT: &str = "/nix/var/nix/gcroots/trueup/agent/bin/trueup-agent";
const DEFAULTS: &str =
    "    activation: {confirmTimeout: 60s, settle: 1s}\n    drift: {interval: 10s}\n";
const PATIENCE: Duration = Duration::from_secs(240);
/// Of what is refused.
const REFUSED: i32 = 77;

/// A key that the hosts know behind a forced command only.
struct Key(PathBuf);

impl Key {
    fn make(folder: &Path) -> Key {
        let file = folder.join("forced.key");
        let made = command("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "trueup@hub", "-f"])
            .arg(&file)
            .status()
            .unwrap();
        assert!(made.success());
        Key(file)
    }

    fn public(&self) -> String {
        let text = std::fs::read_to_string(self.0.with_extension("key.pub")).unwrap();
        text.trim().to_owned()
    }

    /// `ssh` itself, or a program of its family, with this key and nothing of the harness' own.
    fn run(&self, program: &str, host: &Host, args: &[&str], stdin: &[u8]) -> Output {
        let known = format!("UserKnownHostsFile={}", host.known_hosts.display());
        let mut child = command("timeout")
            .args(["60", program, "-F", "/dev/null", "-i"])
            .arg(&self.0)
            .args([
                "-o",
                &known,
                "-o",
                "IdentitiesOnly=yes",
                "-o",
                "BatchMode=yes",
            ])
            .args(["-o", "StrictHostKeyChecking=yes", "-o", "ControlPath=none"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who is refused at once may not read it.
        let _unread = child.stdin.take().unwrap().write_all(stdin);
        let out = child.wait_with_output().unwrap();
        Output {
            code: out.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }

    fn ask(&self, host: &Host, login: &str, line: &str, stdin: &[u8]) -> Output {
        let to = format!("{login}@{}", host.address);
        self.run("ssh", host, &["-T", "--", &to, line], stdin)
    }
}

fn append(host: &Host, file: &str, line: &str) {
    let out = host.sh(&format!("echo '{line}' >> {file}"));
    assert_eq!(out.code, 0, "{out:?}");
}

/// The line that the agent itself prints; for a second login, who has nothing but it and sudo.
fn restrict(world: &World, key: &Key) {
    for name in HOSTS {
        let host = world.host(name);
        let path = host.read(&["readlink", "-e", AGENT]);
        let line = host.read(&[&path, "authorized-key", &key.public()]);
        assert!(
            line.starts_with(&format!(
                "restrict,command=\"{path} ssh-command\" ssh-ed25519 "
            )),
            "{line}"
        );
        let file = match name {
            ROOT => "/root/.ssh/authorized_keys",
            _ => {
                let made = host.sh(&format!(
                    "useradd --create-home --shell /bin/sh --groups nix-users {LOGIN} && \
                     install -d -o {LOGIN} -m 700 /home/{LOGIN}/.ssh && \
                     install -o {LOGIN} -m 600 /dev/null /home/{LOGIN}/.ssh/authorized_keys"
                ));
                assert_eq!(made.code, 0, "{made:?}");
                "/home/deploy/.ssh/authorized_keys"
            }
        };
        append(host, file, &line);
    }
}

#[test]
fn the_whole_loop_runs_behind_a_forced_command_and_nothing_else_does() {
    let Some(lab) = Lab::up(&HOSTS) else { return };
    let stage = Stage::demo(&HOSTS, DEFAULTS);
    let mut world = World::set(lab, &stage).unwrap();
    world.patience = PATIENCE;
    world.commit("one", &[]).unwrap();
    world.start_and_wait().unwrap();
    world.all_ready(&HOSTS).unwrap();
    world.stop().unwrap();

    let key = Key::make(world.dir());
    restrict(&world, &key);
    put_sudo(&world, BECOMES);
    let settings = world.dir().join("trueup.yaml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let open = world.host(ROOT).key.display().to_string();
    let line = format!("identityFile: {open}");
    assert!(text.contains(&line), "{text}");
    let text = text.replace(&line, &format!("identityFile: {}", key.0.display()));
    std::fs::write(&settings, text).unwrap();
    let login = format!("    user: {LOGIN}\n    become: true\n");
    world
        .edit_host(BECOMES, "    user: root\n", &login)
        .unwrap();

    the_loop(&mut world);
    refusals(&world, &key);
    another_hosts_intent(&world, &key);
}

/// Copy, activation, confirmation, report, drift.
fn the_loop(world: &mut World) {
    let message = [("message", "two")];
    world
        .commit(
            "two",
            &[(ROOT, "web", &message), (BECOMES, "web", &message)],
        )
        .unwrap();
    world.start_and_wait().unwrap();
    world.all_ready(&HOSTS).unwrap();
    for name in HOSTS {
        world.page(name, "two").unwrap();
        assert_eq!(switched(world, name), 1);
        let older = world.older_closure(name).unwrap();
        let by_hand = format!("{older}/bin/switch-to-configuration test");
        let out = world.host(name).sh(&by_hand);
        assert!(matches!(out.code, 0 | 4), "{out:?}");
    }
    for name in HOSTS {
        world.condition(name, "Drifted").unwrap();
        world.nudge(name).unwrap();
    }
    world.all_ready(&HOSTS).unwrap();
    for name in HOSTS {
        world.page(name, "two").unwrap();
        // The controller's own words were refused nowhere.
        let log = world
            .host(name)
            .sh("journalctl -q -t trueup-agent -o cat --no-pager");
        assert!(
            !log.stdout.contains("refused over a forced command"),
            "{name}: {log:?}"
        );
    }
}

fn refusals(world: &World, key: &Key) {
    let dir = world.dir().display().to_string();
    for (name, login) in [(ROOT, "root"), (BECOMES, LOGIN)] {
        let host = world.host(name);
        let agent = host.read(&["readlink", "-e", AGENT]);
        let to = format!("{login}@{}", host.address);
        let told = |said: &Output, what: &str, line: &str| {
            assert_eq!(said.code, REFUSED, "{name}: {line:?}: {said:?}");
            assert!(said.stdout.is_empty(), "{name}: {line:?}: {said:?}");
            let named = format!("ForcedCommand/{what}: ");
            assert!(said.stderr.contains(&named), "{name}: {line:?}: {said:?}");
        };
        // A control: the way that all of these go is open.
        let version = key.ask(host, login, &format!("{agent} version -o json"), b"");
        let version: Value = serde_json::from_str(&version.stdout).unwrap();
        assert_eq!(
            version["path"].as_str(),
            agent.strip_suffix("/bin/trueup-agent")
        );

        told(
            &key.run("ssh", host, &["-T", &to], b"touch /tmp/by-shell\n"),
            "Shell",
            "no command",
        );
        let said = key.run("ssh", host, &["-tt", &to], b"touch /tmp/by-shell\n");
        assert_ne!(said.code, 0, "{said:?}");
        assert!(
            said.stderr.contains("PTY allocation request failed"),
            "{said:?}"
        );
        for line in [
            "id",
            "sh -c id",
            "/bin/bash",
            "sudo -n -- sh",
            "cat /etc/shadow",
            "rsync --server -e.x . /tmp",
        ] {
            told(&key.ask(host, login, line, b""), "Program", line);
        }
        for verb in [
            "hold --for 2h --reason x",
            "release",
            "activate --order 1-1",
            "secrets restore",
            "nonsense",
            "--help",
        ] {
            told(
                &key.ask(host, login, &format!("{agent} {verb}"), b""),
                "Verb",
                verb,
            );
        }
        for line in [
            format!("{agent} report --"),
            format!("{agent} want /etc/shadow"),
            format!("{agent} want -- /nix/store"),
            format!("{agent} confirm --order 1-1 --nonce --help"),
            "nix-daemon --option build-hook /tmp/x --stdio".to_owned(),
            "nix-store --serve --write --repair".to_owned(),
        ] {
            told(&key.ask(host, login, &line, b""), "Arguments", &line);
        }
        for crafted in [
            "\ntouch /tmp/crafted",
            ";touch /tmp/crafted",
            " ; touch /tmp/crafted",
            "$(touch /tmp/crafted)",
            "`touch /tmp/crafted`",
            " && touch /tmp/crafted",
            "|touch /tmp/crafted",
            " 'a b'",
            "\ttouch",
        ] {
            told(
                &key.ask(host, login, &format!("{agent} report{crafted}"), b""),
                "Alphabet",
                crafted,
            );
        }
        copies_and_forwarding(key, host, &to, &dir);
        for made in ["/tmp/by-shell", "/tmp/crafted", "/tmp/by-scp"] {
            assert_eq!(host.ssh(&["test", "-e", made]).code, 1, "{name}: {made}");
        }
        let log = host.sh("journalctl -q -t trueup-agent -o cat --no-pager");
        for what in ["Shell", "Program", "Verb", "Arguments", "Alphabet"] {
            assert!(
                log.stdout.contains(&format!(": {what}: ")),
                "{name}: {what} is not in the log: {log:?}"
            );
        }
        for asked in ["id", "scp"] {
            let line = format!("asked for: {asked}");
            assert!(log.stdout.contains(&line), "{name}: {asked}: {log:?}");
        }
        assert!(log.stdout.contains("sftp-server"), "{name}: {log:?}");
    }
}

fn copies_and_forwarding(key: &Key, host: &Host, to: &str, dir: &str) {
    let from = format!("{dir}/trueup.yaml");
    let target = format!("{to}:/tmp/by-scp");
    for old in [&["-O"][..], &[]] {
        let said = key.run("scp", host, &[old, &[&from, &target]].concat(), b"");
        // scp over sftp may be gone before it prints what it was told; the host's log has it.
        assert_ne!(said.code, 0, "scp {old:?}: {said:?}");
    }
    let said = key.run("sftp", host, &["-b", "-", to], b"ls\n");
    assert_ne!(said.code, 0, "{said:?}");
    // A tunnel from here, and one from there.
    let said = key.run("ssh", host, &["-W", "127.0.0.1:22", to], b"");
    assert_ne!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("prohibited"), "{said:?}");
    let back = [
        "-o",
        "ExitOnForwardFailure=yes",
        "-R",
        "0:127.0.0.1:22",
        to,
        "true",
    ];
    let said = key.run("ssh", host, &back, b"");
    assert_ne!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("forwarding failed"), "{said:?}");
    // Agent, X11, terminal: sshd tells what the key's line leaves.
    let said = key.run("ssh", host, &["-v", "-A", "-T", to, "true"], b"");
    assert_eq!(said.code, 0, "{said:?}");
    let left: Vec<&str> = said
        .stderr
        .lines()
        .filter_map(|l| l.split_once("key options: "))
        .map(|(_, o)| o.trim())
        .collect();
    assert!(
        !left.is_empty() && left.iter().all(|o| *o == "command"),
        "{left:?}"
    );
}

/// Signed by the right key, for the host beside it.
fn another_hosts_intent(world: &World, key: &Key) {
    let newest = "ls -d /nix/var/trueup/attempts/* | sort -V | tail -n 1";
    let host = world.host(ROOT);
    let folder = host.sh(newest).stdout.trim().to_owned();
    let text = host.read(&["cat", &format!("{folder}/intent.json")]);
    let mut intent: Intent = serde_json::from_str(&text).unwrap();
    assert_eq!(intent.host.as_str(), ROOT);
    intent.order.serial += 100;
    intent.expires_at = trueup_schema::Timestamp::now() + Duration::from_secs(3600);
    let signer = FleetKey::load_or_make(&world.dir().join("state/keys")).unwrap();
    let envelope = serde_json::json!({ "signed": signer.sign(&intent), "pin": null });
    let line = format!("{envelope}\n");
    let offer = |name: &str, login: &str, sudo: &str| {
        let agent = world.host(name).read(&["readlink", "-e", AGENT]);
        let said = key.ask(
            world.host(name),
            login,
            &format!("{sudo}{agent} offer"),
            line.as_bytes(),
        );
        serde_json::from_str::<OfferReply>(said.stdout.trim())
            .unwrap_or_else(|e| panic!("{e}: {said:?}"))
    };
    let refused = offer(BECOMES, LOGIN, "sudo -n -- ");
    assert!(
        matches!(&refused, OfferReply::Refused { reason, .. } if reason == "IdentityMismatch"),
        "{refused:?}"
    );
    let taken = offer(ROOT, "root", "");
    assert!(matches!(taken, OfferReply::Already { .. }), "{taken:?}");
}
