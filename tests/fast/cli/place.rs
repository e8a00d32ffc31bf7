//! A controller whose hosts don't answer, in a folder of its own: with a repository, settings, and in place of Nix a script that
//! knows these hosts. It starts, asks and reads; it judges nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use regex::Regex;
use serde_json::Value;
use trueup_fixtures::fleet::{self, HostAt};

/// The program's own `main.rs`, built for these tests.
pub const TRUEUP: &str = env!("CARGO_BIN_EXE_trueup-cli");
/// A busy machine is slow to start a controller; a step that takes longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const HOSTS: [&str; 3] = ["db-1", "web-1", "web-2"];

/// Answers what the controller asks Nix of a fleet that is built already; while the file `slow` lies beside it, it
/// takes its time to evaluate.
pub const NIX: &str = r#"#!/bin/sh
case "$1" in
  eval)
    [ ! -e "${0%/*}/slow" ] || exec sleep 1000
    of() { echo "\"$2\": {\"drv\": \"/nix/store/$1-nixos-system-$2-26.05.drv\", \"out\": \"/nix/store/$1-nixos-system-$2-26.05\"}"; }
    echo "{$(of 00bgd045z0d4icpbc2yyz4gx48ak44la db-1), $(of 11bgd045z0d4icpbc2yyz4gx48ak44la web-1), $(of 22bgd045z0d4icpbc2yyz4gx48ak44la web-2), $(of 33bgd045z0d4icpbc2yyz4gx48ak44la db-2)}" ;;
  path-info | store) ;;
  --version) echo "nix (Nix) 2.28.3" ;;
  *) exit 1 ;;
esac
"#;

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// A fleet repository, settings, and maybe a controller.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub controller: Option<Child>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut controller) = self.controller.take() {
            let _ = controller.kill();
            let _ = controller.wait();
        }
    }
}

impl Place {
    /// Nobody listens at port 1, so hosts are unreachable at once.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = HOSTS.map(|name| {
            let place = HostAt {
                address: "127.0.0.1".to_owned(),
                port: 1,
                host_key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBoyqQ8Qg2q0Wk3dQ3v0l7m0o1m2b3c4d5e6f7g8h9iA".to_owned(),
            };
            (name.to_owned(), place)
        });
        let repo = dir.path().join("fleet");
        fleet::materialise("demo", &repo, &BTreeMap::from(at)).unwrap();
        fleet::commit_all(&repo, "the fleet").unwrap();
        let at = |part: &str| dir.path().join(part).display().to_string();
        let settings = format!(
            "repository: {{url: {}}}\nstateDir: {}\nlisten: {{socket: {}}}\nnix: {{program: {}}}\n\
             agent: {{packages: {{x86_64-linux: /nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-trueup-agent}}}}\n",
            at("fleet"),
            at("state"),
            at("api.sock"),
            at("nix"),
        );
        std::fs::write(dir.path().join("trueup.yaml"), settings).unwrap();
        let nix = dir.path().join("nix");
        std::fs::write(&nix, NIX).unwrap();
        std::fs::set_permissions(&nix, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        Self {
            dir,
            controller: None,
        }
    }

    /// With a controller that has read the fleet and found no host.
    pub fn running() -> Self {
        let mut place = Self::new();
        place.start();
        place.until("all hosts are unreachable", |p| {
            let said = p.ask(&["get", "hosts", "-o", "json"]);
            let list: Value = serde_json::from_str(&said.out).unwrap_or_default();
            let hosts = list["items"].as_array().cloned().unwrap_or_default();
            hosts.len() == HOSTS.len()
                && hosts.iter().all(|h| h["status"]["phase"] == "Unreachable")
        });
        place
    }

    pub fn start(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("controller.log"))
            .unwrap();
        let child = self
            .command(&["run", "--config"])
            .arg(self.path("trueup.yaml"))
            .stderr(log)
            .spawn()
            .unwrap();
        self.controller = Some(child);
    }

    /// `kill -9`, and a new one.
    pub fn restart(&mut self) {
        let mut controller = self.controller.take().unwrap();
        controller.kill().unwrap();
        controller.wait().unwrap();
        self.start();
        self.until("it answers again", |p| p.ask(&["get", "hosts"]).code == 0);
    }

    pub fn path(&self, part: &str) -> PathBuf {
        self.dir.path().join(part)
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "a test starts the program that it tests"
    )]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(TRUEUP);
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("TZ", "UTC")
            .env("TRUEUP_SOCKET", self.path("api.sock"))
            .stdin(Stdio::null());
        command
    }

    pub fn ask(&self, args: &[&str]) -> Said {
        said(self.command(args))
    }

    pub fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            let log = std::fs::read_to_string(self.path("controller.log")).unwrap_or_default();
            assert!(
                began.elapsed() < PATIENCE,
                "{what}: not seen. The controller said:\n{log}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What stands on the screen, with all that differs from run to run taken out.
    pub fn transcript(&self, lines: &[&[&str]]) -> String {
        let mut text = String::new();
        for args in lines {
            let said = self.ask(args);
            let words = args.iter().map(|a| {
                if a.contains(' ') {
                    format!("'{a}'")
                } else {
                    (*a).to_owned()
                }
            });
            text.push_str(&format!(
                "$ trueup {}\n",
                words.collect::<Vec<_>>().join(" ")
            ));
            text.push_str(&said.out);
            text.extend(said.err.lines().map(|l| format!("! {l}\n")));
            if said.code != 0 {
                text.push_str(&format!("[exit {}]\n", said.code));
            }
            text.push('\n');
        }
        self.scrub(&text)
    }

    pub fn scrub(&self, text: &str) -> String {
        let dir = self.dir.path().display().to_string();
        let me = said_by("id", &["-un"]).trim().to_owned();
        let mut text = text
            .replace(&dir, "DIR")
            .replace(env!("CARGO_PKG_VERSION"), "VERSION");
        for (pattern, with) in [
            (r"[A-Za-z0-9+/]{43}=", "KEY"),
            (r"[0-9a-f]{40}", "SHA1"),
            (r"sha1:[0-9a-f]{7}", "sha1:1234567"),
            (r"`[0-9a-f]{7}`", "`1234567`"),
            (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
            (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b", "HH:MM:SS"),
            (r"\b\d\d:\d\d:\d\d\b", "HH:MM:SS"),
            (r"\b\d{16}-\d+\b", "NUDGE"),
            (r"(?m)^ +\d+ s  ", "   N s  "),
            (r"(?m)(^|  )\d+[smhd](  +|$)", "${1}AGE  "),
            (r"\bAGE +", "AGE  "),
            (r" +(?m)$", ""),
            (&format!(r"\b{}\b", regex::escape(&me)), "ME"),
        ] {
            text = Regex::new(pattern)
                .unwrap()
                .replace_all(&text, with)
                .into_owned();
        }
        text
    }

    pub fn golden(&self, name: &str, lines: &[&[&str]]) {
        golden(name, &self.transcript(lines));
    }
}

pub fn said(mut command: Command) -> Said {
    let output = command.output().unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a test asks the machine who it is"
)]
pub fn said_by(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

pub fn golden(name: &str, found: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fast/cli");
    trueup_tests::golden::same(&folder.join(name), found);
}
