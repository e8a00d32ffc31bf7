//! As a witness: goes to another host until it has confirmed one attempt there, on SSH connections of its own, known by this
//! host's own key. It is told whom and for how long by a document that this host's controller signed. It changes nothing
//! but its own note, and shows its key to nobody: ssh and a signature prove that it is here.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use trueup_core::agent::Moment;
use trueup_schema::kind::HostKey;
use trueup_schema::wire::{
    AttemptState, Challenge, FORMAT, MAX_LINE, Signed, WATCH_KEYS_MAX, Watch, WatchReport, testify,
};
use trueup_schema::{Address, HostName, Timestamp};
use zeroize::Zeroizing;

use crate::exec;
use crate::files::{self, Layout};
use crate::units::{Setting, Transient};
use crate::{AgentError, hostkeys, journal, trust, units};

/// So many hosts are watched at once: a witness is for one or two.
const WATCHES_MAX: usize = 16;
/// However long somebody asks for.
const WATCH_MAX_SECS: u64 = 2 * 24 * 3600;
/// Between two tries, so that a host that refuses at once is not knocked at without end.
const PAUSE: Duration = Duration::from_secs(2);
/// One try: a login may take 25 s, and the host answers within 10 s more, or at once when the attempt waits.
const TRY_LIMIT: Duration = Duration::from_secs(45);
/// Of what went wrong, so much is told.
const TOLD: usize = 300;
/// ssh, beside whom it goes to: none of anybody's configuration, no connection of anybody's, nothing asked.
const SSH: [&str; 14] = [
    "BatchMode=yes",
    "ClearAllForwardings=yes",
    "ConnectTimeout=10",
    "ControlMaster=no",
    "ControlPath=none",
    "GlobalKnownHostsFile=/dev/null",
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    "PreferredAuthentications=publickey",
    "RequestTTY=no",
    "ServerAliveCountMax=3",
    "ServerAliveInterval=3",
    "StrictHostKeyChecking=yes",
    "UpdateHostKeys=no",
];

/// A watch, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    watch: Watch,
    until: Moment,
    done: WatchReport,
}

impl Kept {
    fn goes_on(&self) -> bool {
        self.done.goes_on
            && self.until.boot_id == journal::boot_id()
            && journal::boottime() < self.until.at
    }
}

fn bad(message: impl Into<String>) -> AgentError {
    AgentError::Witness(message.into())
}

fn folder(layout: &Layout) -> PathBuf {
    layout.file("watch")
}

fn file(layout: &Layout, host: &HostName) -> PathBuf {
    folder(layout).join(format!("{host}.json"))
}

/// Its unit, without what it is.
fn unit_name(host: &HostName) -> String {
    format!("trueup-witness-{host}")
}

fn unit(host: &HostName) -> String {
    format!("{}.service", unit_name(host))
}

fn kept(layout: &Layout) -> Vec<(PathBuf, Kept)> {
    let entries = fs::read_dir(folder(layout)).into_iter().flatten().flatten();
    let files = entries
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|x| x == "json"));
    let mut all: Vec<(PathBuf, Kept)> = files
        .take(2 * WATCHES_MAX)
        .filter_map(|p| Some((p.clone(), files::read_json(&p).ok().flatten()?)))
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// For the report.
#[must_use]
pub fn report(layout: &Layout) -> Vec<WatchReport> {
    let told = |k: Kept| WatchReport {
        goes_on: k.goes_on(),
        ..k.done
    };
    kept(layout).into_iter().map(|(_, k)| told(k)).collect()
}

/// This host's own key, which signs and logs in, and where it lies: the one that the controller names.
fn own_key(named: &str) -> Result<(PathBuf, SigningKey), AgentError> {
    let usual = PathBuf::from(hostkeys::USUAL);
    key_among(&[usual], named).or_else(|first| {
        let others = hostkeys::of_sshd();
        if others.is_empty() {
            return Err(first);
        }
        key_among(&others, named)
    })
}

/// The first of these that is that key. An error is of the first that can't be read, where none can.
fn key_among(paths: &[PathBuf], named: &str) -> Result<(PathBuf, SigningKey), AgentError> {
    let mut why = None;
    for path in paths {
        match key_at(path, named) {
            Ok(Some(key)) => return Ok((path.clone(), key)),
            Ok(None) => {}
            Err(e) => why = why.or(Some(e)),
        }
    }
    let named: String = named.chars().take(100).collect();
    let shown: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    let shown = shown.join(", ");
    Err(bad(match why {
        Some(e) if paths.len() == 1 => e.to_string(),
        _ => format!(
            "the key `{named}` that the controller names is not this host's (looked at {shown}): correct \
             `ssh.hostKeys` of this host"
        ),
    }))
}

/// `None`: it is another key.
fn key_at(path: &Path, named: &str) -> Result<Option<SigningKey>, AgentError> {
    let pem = Zeroizing::new(fs::read(path).map_err(|e| bad(format!("{}: {e}", path.display())))?);
    let key = ssh_key::PrivateKey::from_openssh(pem.as_slice())
        .map_err(|e| bad(format!("{}: {e}", path.display())))?;
    let (Some(pair), Ok(public)) = (
        key.key_data().ed25519(),
        ssh_key::PublicKey::from_openssh(named),
    ) else {
        return Ok(None);
    };
    let same = public.key_data().ed25519() == Some(&pair.public);
    Ok(same.then(|| SigningKey::from_bytes(&pair.private.to_bytes())))
}

/// Whom to go to, read strictly: these words become arguments of ssh.
fn check(watch: &Watch) -> Result<Vec<HostKey>, AgentError> {
    let user = watch.user.bytes().enumerate().all(|(n, b)| {
        b.is_ascii_lowercase() || b == b'_' || n > 0 && (b.is_ascii_digit() || b == b'-')
    });
    if !user || !(1..=32).contains(&watch.user.len()) {
        return Err(bad("the login is no user's name"));
    }
    if watch.address.parse::<Address>().is_err()
        || watch.address.starts_with('-')
        || watch.port == 0
    {
        return Err(bad("the address is none"));
    }
    let keys: Result<Vec<HostKey>, _> = watch.host_keys.iter().map(|k| k.parse()).collect();
    let keys = keys.map_err(|e| bad(e.to_string()))?;
    if !(1..=WATCH_KEYS_MAX).contains(&keys.len()) {
        return Err(bad("no host key is pinned for the host to be confirmed"));
    }
    Ok(keys)
}

/// The verb `witness`: takes what the controller asks, and begins. A later one for the same host takes its place.
pub fn take(layout: &Layout, signed: &Signed) -> Result<WatchReport, AgentError> {
    let watch = trust::watch(layout, signed).map_err(AgentError::Watch)?;
    if watch.format != FORMAT {
        return Err(bad(format!("format {} is not known here", watch.format)));
    }
    let here = files::text("/etc/machine-id");
    if watch.machine_id.as_ref().is_some_and(|id| *id != here) {
        return Err(bad(format!("another machine is meant; this is {here}")));
    }
    if watch.expires_at < Timestamp::now() {
        return Err(bad(format!("it was good until {}", watch.expires_at)));
    }
    let keys = check(&watch)?;
    own_key(&watch.witness.key)?;
    let dir = folder(layout);
    fs::create_dir_all(&dir).map_err(|source| files::FileError::Write {
        path: dir.clone(),
        source,
    })?;
    make_room(layout, &watch.host)?;
    let name = unit(&watch.host);
    // Not there is as good as stopped.
    let _stopped = units::systemctl(&["stop", "--quiet"], &[&name], units::SYSTEMCTL_LIMIT);
    let lines: String = keys
        .iter()
        .map(|k| format!("{} {k}\n", watch.host))
        .collect();
    files::write_atomic(&known_hosts(layout, &watch.host), lines.as_bytes())?;
    let mut until = journal::now();
    let secs = watch.for_secs.min(WATCH_MAX_SECS);
    until.at = until.at.saturating_add(secs.saturating_mul(1_000_000_000));
    let done = WatchReport {
        host: watch.host.clone(),
        order: watch.order,
        tries: 0,
        confirmed: false,
        goes_on: true,
        said: "asked to".to_owned(),
    };
    let host = watch.host.clone();
    let all = Kept { watch, until, done };
    files::write_json(&file(layout, &host), &all)?;
    start(&host)?;
    Ok(all.done)
}

fn known_hosts(layout: &Layout, host: &HostName) -> PathBuf {
    folder(layout).join(format!("{host}.known_hosts"))
}

/// What is over makes room; what goes on does not.
fn make_room(layout: &Layout, host: &HostName) -> Result<(), AgentError> {
    let others: Vec<(PathBuf, Kept)> = kept(layout)
        .into_iter()
        .filter(|(_, k)| k.watch.host != *host)
        .collect();
    if others.len() < WATCHES_MAX {
        return Ok(());
    }
    let Some((path, over)) = others.iter().find(|(_, k)| !k.goes_on()) else {
        return Err(bad(format!(
            "this host is the witness of {WATCHES_MAX} others already"
        )));
    };
    for gone in [path.clone(), known_hosts(layout, &over.watch.host)] {
        let _gone = fs::remove_file(gone);
    }
    Ok(())
}

/// In a unit of its own: it must outlive the connection that asked, and every switch of this host.
fn start(host: &HostName) -> Result<(), AgentError> {
    let agent = crate::own_path()?;
    let agent = agent.to_string_lossy();
    if let Some(own) = crate::own_store_path() {
        let root = Path::new(files::ROOTS).join(format!("witness-{host}"));
        files::link(Path::new(own.as_str()), &root)?;
    }
    let own = [Setting::Micros("RestartSec", 2_000_000)];
    units::start(&Transient {
        name: &unit_name(host),
        service: &[units::LASTING.as_slice(), &own].concat(),
        timer: &[],
        command: &[&agent, "witnessing", "--host", host.as_str()],
    })?;
    Ok(())
}

/// The verb `witnessing`: goes there until it is confirmed, over, or too late.
pub fn go(layout: &Layout, host: &str) -> Result<(), AgentError> {
    let host: HostName = host.parse().map_err(|_| bad("no name of a host"))?;
    let Some(mut all) = files::read_json::<Kept>(&file(layout, &host))? else {
        return Ok(());
    };
    check(&all.watch)?;
    let (identity, key) = own_key(&all.watch.witness.key)?;
    while all.goes_on() {
        all.done.tries += 1;
        let step = visit(layout, &identity, &key, &mut all);
        match step {
            Ok(over) => all.done.goes_on = !over,
            Err(e) => all.done.said = e.to_string().chars().take(TOLD).collect(),
        }
        files::write_json(&file(layout, &host), &all)?;
        if all.done.goes_on {
            thread::sleep(PAUSE);
        }
    }
    if all.done.goes_on {
        all.done.goes_on = false;
        files::write_json(&file(layout, &host), &all)?;
    }
    eprintln!(
        "trueup-agent: {host}, {}: {}",
        all.watch.order, all.done.said
    );
    Ok(())
}

/// Once there and, if somebody waits, once more to confirm. `true`: there is nothing more to do.
fn visit(
    layout: &Layout,
    identity: &Path,
    key: &SigningKey,
    all: &mut Kept,
) -> Result<bool, AgentError> {
    let watch = &all.watch;
    let order = watch.order.to_string();
    let answer = say(layout, watch, identity, &["challenge", "--order", &order])?;
    let line = answer.lines().next().unwrap_or_default();
    if line.len() > MAX_LINE {
        return Err(bad("its answer is too long"));
    }
    let challenge: Challenge = serde_json::from_str(line)
        .map_err(|e| bad(format!("its answer is not understood: {e}")))?;
    if challenge.over {
        all.done.said = "a later attempt has begun there".to_owned();
        return Ok(true);
    }
    let (state, nonce) = (challenge.state, challenge.nonce);
    match (state, nonce) {
        (Some(AttemptState::AwaitingConfirmation), Some(nonce)) => {
            // A word of the command: only what an agent makes as a nonce goes on.
            if !crate::gate::is_nonce(&nonce) {
                return Err(bad("its nonce is none"));
            }
            let signature = testify(key, &watch.witness.host, &watch.host, watch.order, &nonce);
            let words = [
                "testify",
                "--order",
                &order,
                "--nonce",
                &nonce,
                "--signature",
                &signature,
            ];
            say(layout, watch, identity, &words)?;
            all.done.confirmed = true;
            all.done.said = "confirmed".to_owned();
            Ok(true)
        }
        (Some(AttemptState::Ended | AttemptState::Committing | AttemptState::RollingBack), _) => {
            all.done.said = "the attempt was decided without this witness".to_owned();
            Ok(true)
        }
        (state, _) => {
            let state = state.map_or("not begun".to_owned(), |s| format!("{s:?}"));
            all.done.said = format!("reached it; the attempt is {state}");
            Ok(false)
        }
    }
}

/// One connection, one command.
fn say(
    layout: &Layout,
    watch: &Watch,
    identity: &Path,
    words: &[&str],
) -> Result<String, AgentError> {
    let ssh = exec::tool("ssh")?;
    let own = [
        format!("HostKeyAlias={}", watch.host),
        format!(
            "UserKnownHostsFile={}",
            known_hosts(layout, &watch.host).display()
        ),
        format!("IdentityFile=\"{}\"", identity.display()),
        format!("Port={}", watch.port),
        format!("User={}", watch.user),
    ];
    let mut args = vec!["-F", "/dev/null", "-T"];
    for option in SSH.into_iter().chain(own.iter().map(String::as_str)) {
        args.extend(["-o", option]);
    }
    args.extend(["--", &watch.address]);
    args.extend(words);
    let out = exec::run(&ssh, &args, TRY_LIMIT)?;
    if out.code == 0 {
        return Ok(out.stdout);
    }
    let lines = out.stderr.lines().rev();
    let last = lines.map(str::trim).find(|l| !l.is_empty());
    Err(bad(last.unwrap_or("it said nothing").to_owned()))
}

#[cfg(test)]
#[path = "witness_tests.rs"]
mod tests;
