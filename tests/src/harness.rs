//! Lab hosts for tests: real machines, looked at by the test's own SSH and never through trueup.
//! It makes, breaks and reads hosts; it knows nothing of what is deployed to them.
//!
//! One lab with an id of its own for a test binary's run; it goes when the process goes, also by `kill -9`. Tests take
//! turns ([`Lab`] holds the lock), and each gets its hosts with an empty disk and the same identity.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

/// A login may take long while a host is busy; past this it is a failure, not patience.
const SSH_WALL_SECS: &str = "60";

/// A boot takes 2 to 7 s.
const BOOT_MAX: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(100);
const POLL_SLOWLY: Duration = Duration::from_millis(300);

static TURN: Mutex<Option<String>> = Mutex::new(None);

/// The lab of this test run, held by one test at a time.
pub struct Lab {
    id: String,
    hosts: Vec<Host>,
    _turn: MutexGuard<'static, Option<String>>,
}

impl Lab {
    /// Hosts of these names with empty disks, or `None` after saying why none can run here. Under `CI=true` that fails:
    /// a test that does not run must not look like one that passed.
    pub fn up(names: &[&str]) -> Option<Lab> {
        if let Err(why) = possible() {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "lab hosts can't run here, and CI=true: {why}"
            );
            eprintln!("SKIPPED: lab hosts can't run here: {why}");
            return None;
        }
        Some(Lab::try_up(names).expect("the lab comes up"))
    }

    fn try_up(names: &[&str]) -> Result<Lab> {
        // A test that panicked has left nothing behind that the reset below does not wipe.
        let mut turn = TURN
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if turn.is_none() {
            script("0", &["reap"])?;
            *turn = Some(
                script("0", &["claim", &std::process::id().to_string()])?
                    .trim()
                    .to_owned(),
            );
        }
        let id = turn.clone().context("the claim gave an id")?;
        let before: Vec<String> = list(&id)?.into_iter().map(|host| host.name).collect();
        let (again, idle): (Vec<&str>, Vec<&str>) = before
            .iter()
            .map(String::as_str)
            .partition(|name| names.contains(name));
        let new: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| !again.contains(name))
            .collect();
        for name in idle {
            script(&id, &["halt", name])?;
        }
        if !again.is_empty() {
            script(&id, &[&["reset"], again.as_slice()].concat())?;
        }
        if !new.is_empty() {
            script(&id, &[&["up"], new.as_slice()].concat())?;
        }
        let hosts = list(&id)?;
        Ok(Lab {
            id,
            hosts,
            _turn: turn,
        })
    }

    pub fn host(&self, name: &str) -> &Host {
        self.hosts
            .iter()
            .find(|host| host.name == name)
            .unwrap_or_else(|| panic!("no lab host '{name}'"))
    }

    /// `TRUEUP_LAB_NIX` (a folder with `nix` for the controller's side), `NIX_CONFIG`, `NIX_SSHOPTS` and more.
    pub fn env(&self) -> Vec<(String, String)> {
        let text = script(&self.id, &["env", "-o", "json"]).expect("lab env");
        let map: std::collections::BTreeMap<String, String> =
            serde_json::from_str(&text).expect("lab env prints JSON");
        map.into_iter().collect()
    }

    /// Puts the builder of the fixture fleets into a Nix store (a `--store` URL or folder).
    pub fn seed(&self, store: &str) {
        script(&self.id, &["seed", store]).expect("lab seed");
    }

    pub fn id(&self) -> &str {
        &self.id
    }
}

/// One host: where it is and how the test gets in.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    pub name: String,
    pub address: String,
    pub port: u16,
    pub user: String,
    pub key: PathBuf,
    /// Type and base64, as in a manifest's `hostKeys`.
    pub host_key: String,
    #[serde(rename = "known_hosts")]
    pub known_hosts: PathBuf,
}

/// What a command on a host said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The command's own, 255 where ssh itself failed, 124 where it ran out of time.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Host {
    /// Runs a command; each argument arrives as it is.
    pub fn ssh(&self, argv: &[&str]) -> Output {
        self.ssh_port(self.port, argv)
    }

    /// The same at another port, for hosts that have moved their sshd.
    pub fn ssh_port(&self, port: u16, argv: &[&str]) -> Output {
        // sshd hands the words to a shell, joined: quoted here, so that they come apart as they were.
        let quoted: Vec<String> = argv
            .iter()
            .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
            .collect();
        self.login(port, &quoted.join(" "))
    }

    /// Runs a script of the host's shell.
    pub fn sh(&self, script: &str) -> Output {
        self.login(self.port, script)
    }

    /// A command that must succeed; what it prints, without white space at the ends.
    pub fn read(&self, argv: &[&str]) -> String {
        let output = self.ssh(argv);
        assert!(output.code == 0, "{}: {argv:?}: {output:?}", self.name);
        output.stdout.trim().to_owned()
    }

    /// Where a path leads to in the end: `/run/current-system`, `/nix/var/nix/profiles/system`, `/boot/default`.
    pub fn link(&self, path: &str) -> Option<String> {
        let output = self.ssh(&["readlink", "-e", path]);
        assert!(
            output.code <= 1,
            "{}: readlink {path}: {output:?}",
            self.name
        );
        (output.code == 0).then(|| output.stdout.trim().to_owned())
    }

    /// One property of a unit.
    pub fn unit(&self, unit: &str, property: &str) -> String {
        self.read(&["systemctl", "show", "--value", "--property", property, unit])
    }

    pub fn boot_id(&self) -> String {
        self.read(&["cat", "/proc/sys/kernel/random/boot_id"])
    }

    /// A power cut: every process at once, and it boots again. Returns when it answers.
    pub fn crash(&self) {
        self.script(&["crash", &self.name]);
    }

    /// Makes it a host that GRUB boots, with GRUB's own tools; its menu comes with a closure whose `loader` is `grub`.
    pub fn grub(&self) {
        self.script(&["grub", &self.name]);
    }

    /// Waits until the boot loader took the entry that is to be booted once: what was chosen boots now, or hangs.
    pub fn wait_one_shot_taken(&self) {
        let lab = self.key.parent().expect("the key lies in its lab");
        let host = lab.join("hosts").join(&self.name);
        let variable =
            host.join("nvram/efi/efivars/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f");
        let environment = host.join("upper/boot/grub/grubenv");
        let named = |line: &str| line.starts_with("next_entry=") && line != "next_entry=";
        let taken = || {
            let grub = std::fs::read_to_string(&environment).unwrap_or_default();
            (!variable.exists() && !grub.lines().any(named)).then_some(())
        };
        wait(BOOT_MAX, taken).unwrap_or_else(|| panic!("{} has not gone down to boot", self.name));
    }

    /// Power off without a shutdown; [`Host::boot`] brings it back with its disk.
    pub fn halt(&self) {
        self.script(&["halt", &self.name]);
    }

    pub fn boot(&self) {
        self.script(&["up", &self.name]);
    }

    /// Plugs in or pulls the network cable.
    pub fn net(&self, plugged: bool) {
        self.script(&["net", &self.name, if plugged { "on" } else { "off" }]);
    }

    /// The whole journal, read from its disk: of a dead host too.
    pub fn journal(&self) -> String {
        self.script(&["logs", &self.name, "-o", "cat"])
    }

    /// Waits for a boot other than the one of this id.
    pub fn wait_other_boot(&self, boot_id: &str) -> String {
        wait(BOOT_MAX, || {
            let output = self.ssh(&["cat", "/proc/sys/kernel/random/boot_id"]);
            let now = output.stdout.trim().to_owned();
            (output.code == 0 && now != boot_id).then_some(now)
        })
        .unwrap_or_else(|| panic!("{} has not booted again", self.name))
    }

    fn login(&self, port: u16, line: &str) -> Output {
        let known_hosts = format!("UserKnownHostsFile={}", self.known_hosts.display());
        let out = command("timeout")
            .args([SSH_WALL_SECS, "ssh", "-F", "/dev/null", "-i"])
            .arg(&self.key)
            .args([
                "-o",
                &known_hosts,
                "-o",
                "IdentitiesOnly=yes",
                "-o",
                "StrictHostKeyChecking=yes",
            ])
            // one entry in known_hosts, whatever the port
            .args([
                "-o",
                &format!("HostKeyAlias={}", self.address),
                "-o",
                "CheckHostIP=no",
            ])
            .args([
                "-o",
                "BatchMode=yes",
                "-o",
                "ConnectTimeout=5",
                "-o",
                "LogLevel=ERROR",
            ])
            .args([
                "-o",
                "ControlMaster=no",
                "-o",
                "ControlPath=none",
                "-p",
                &port.to_string(),
            ])
            .args([&format!("{}@{}", self.user, self.address), "--", line])
            .stdin(Stdio::null())
            .output()
            .expect("timeout and ssh are installed");
        Output {
            code: out.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }

    fn script(&self, args: &[&str]) -> String {
        // /var/tmp/trueup-lab/ID/id
        let id = self
            .key
            .parent()
            .and_then(Path::file_name)
            .and_then(|id| id.to_str())
            .expect("the key lies in its lab");
        script(id, args).unwrap_or_else(|error| panic!("{}: {error:#}", self.name))
    }
}

/// The agent as it travels to hosts: static, built once a run (in a moment when it is fresh). While developing,
/// `TRUEUP_TEST_AGENT` names one that was built otherwise.
pub fn static_agent() -> &'static Path {
    static AGENT: OnceLock<PathBuf> = OnceLock::new();
    AGENT.get_or_init(|| built("TRUEUP_TEST_AGENT", &[]))
}

/// The same with the feature `planted`: bugs on purpose, where a file of the host names one, and a second component.
pub fn planted_agent() -> &'static Path {
    static AGENT: OnceLock<PathBuf> = OnceLock::new();
    AGENT.get_or_init(|| built("TRUEUP_TEST_PLANTED", &["--planted"]))
}

fn built(variable: &str, more: &[&str]) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let out = cargo()
        .args(["xtask", "agent"])
        .args(more)
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "cargo xtask agent {more:?} failed");
    PathBuf::from(text.split(' ').next().expect("it prints path and size"))
}

/// Asks again and again until there is an answer or the time is over.
pub fn wait<T>(max: Duration, ask: impl FnMut() -> Option<T>) -> Option<T> {
    wait_every(POLL, max, ask)
}

/// The same for questions that cost more: a program's start each.
pub fn wait_slowly<T>(max: Duration, ask: impl FnMut() -> Option<T>) -> Option<T> {
    wait_every(POLL_SLOWLY, max, ask)
}

fn wait_every<T>(pause: Duration, max: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if began.elapsed() > max {
            return None;
        }
        std::thread::sleep(pause);
    }
}

fn possible() -> Result<(), String> {
    static POSSIBLE: OnceLock<Result<(), String>> = OnceLock::new();
    POSSIBLE
        .get_or_init(|| {
            let out = lab_command("0", &["check"])
                .output()
                .map_err(|error| error.to_string())?;
            if out.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&out.stderr).trim().to_owned())
            }
        })
        .clone()
}

pub fn list(id: &str) -> Result<Vec<Host>> {
    serde_json::from_str(&script(id, &["list", "-o", "json"])?).context("read the lab's list")
}

pub fn script(id: &str, args: &[&str]) -> Result<String> {
    script_owned_by(id, std::process::id(), args)
}

/// One call of `lab.sh` for the lab `id`; the lab goes when process `owner` does, if it was claimed for that.
pub fn script_owned_by(id: &str, owner: u32, args: &[&str]) -> Result<String> {
    let out = lab_command(id, args)
        .env("TRUEUP_LAB_OWNER", owner.to_string())
        .output()
        .context("start bash")?;
    ensure!(
        out.status.success(),
        "lab {args:?}: {}: {}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A process that does nothing and can be killed.
pub fn sleeper() -> std::process::Child {
    command("sleep")
        .arg("600")
        .spawn()
        .expect("sleep is installed")
}

fn lab_command(id: &str, args: &[&str]) -> Command {
    let mut command = command("bash");
    command
        .arg(workspace().join("xtask/lab/lab.sh"))
        .args(args)
        .env("TRUEUP_LAB_ID", id)
        .stdin(Stdio::null());
    command
}

fn workspace() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}

#[allow(
    clippy::disallowed_methods,
    reason = "the tests' own way to hosts, beside trueup's exec"
)]
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace());
    command
}

/// The cargo that runs us, without what it told us of our own package: build scripts that look there would find
/// another package than the time before, and all that hangs on them would be compiled anew, back and forth.
pub fn cargo() -> Command {
    let mut cargo = command(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    for (name, _) in std::env::vars_os() {
        let told = name.to_string_lossy();
        if told.starts_with("CARGO_PKG_") || told.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}
