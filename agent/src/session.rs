//! Which SSH connection this process belongs to, by its ancestors in `/proc`: a client's port proves nothing, the
//! start time of the connection's process does.

use trueup_core::agent::Session;

use crate::files;
use crate::plant::{self, Bug};

/// More ancestors than this are not looked at.
const MAX_DEPTH: usize = 32;
/// `USER_HZ`: what `/proc` counts start times in, on every Linux that NixOS runs on.
const NS_PER_TICK: u64 = 10_000_000;

struct Process {
    pid: u32,
    comm: String,
    parent: u32,
    start_ticks: u64,
}

fn parse_stat(pid: u32, stat: &str) -> Option<Process> {
    // `pid (comm) state ppid …`; the name may hold anything, also `)`.
    let open = stat.find('(')?;
    let close = stat.rfind(')')?;
    let rest: Vec<&str> = stat.get(close + 1..)?.split_whitespace().collect();
    Some(Process {
        pid,
        comm: stat.get(open + 1..close)?.to_owned(),
        parent: rest.get(1)?.parse().ok()?,
        start_ticks: rest.get(19)?.parse().ok()?,
    })
}

fn process(pid: u32) -> Option<Process> {
    parse_stat(pid, &files::text(format!("/proc/{pid}/stat")))
}

/// The connection that this process came over: the topmost sshd above it that is no listener.
#[must_use]
pub fn own() -> Option<Session> {
    let mut pid = std::process::id();
    let mut found = None;
    for _ in 0..MAX_DEPTH {
        let p = process(pid)?;
        if matches!(p.comm.as_str(), "sshd" | "sshd-session" | "sshd-auth") {
            let title = files::text(format!("/proc/{pid}/cmdline"));
            if title.contains("[listener]") {
                break;
            }
            found = Some(Session {
                pid: p.pid,
                started: p.start_ticks * NS_PER_TICK,
            });
        }
        if p.parent <= 1 {
            break;
        }
        pid = p.parent;
    }
    found
}

/// Has the other side's kernel taken all that this connection's process sent? Read from the send queue of its TCP socket.
#[must_use]
pub fn is_acknowledged(pid: u32) -> bool {
    let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            std::fs::read_link(e.path())
                .ok()?
                .to_str()
                .map(str::to_owned)
        })
        .filter_map(|l| Some(l.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    ["tcp", "tcp6"].iter().any(|table| {
        let table = files::text(format!("/proc/{pid}/net/{table}"));
        table.lines().skip(1).any(|row| all_sent(row, &sockets))
    })
}

/// A row of `/proc/net/tcp`: number, local, remote, state, `tx_queue:rx_queue`, …, inode.
fn all_sent(row: &str, sockets: &[String]) -> bool {
    const ESTABLISHED: &str = "01";
    let words: Vec<&str> = row.split_whitespace().collect();
    let (Some(state), Some(queues), Some(inode)) = (words.get(3), words.get(4), words.get(9))
    else {
        return false;
    };
    *state == ESTABLISHED
        && sockets.iter().any(|s| s == inode)
        && queues
            .split_once(':')
            .is_some_and(|(tx, _)| u64::from_str_radix(tx, 16) == Ok(0))
}

/// Is this connection younger than the end of the activation, and not the one that offered?
/// The kernel rounds start times down to a tick, so equal means older.
#[must_use]
pub fn is_fresh(session: &Session, offered_by: Option<&Session>, since: u64) -> bool {
    plant::is(Bug::NoNewConnection) || session.started > since && offered_by != Some(session)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 3 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0";
        let p = parse_stat(7, stat).expect("parsed");
        assert_eq!(
            (p.parent, p.start_ticks, p.comm.as_str()),
            (3, 4711, "a) b")
        );
    }

    #[test]
    fn bytes_that_wait_in_the_queue_are_no_contact() {
        let row = |tx: &str| {
            format!(
                "  1: 0B64D30A:0016 0164D30A:8D0C 01 {tx}:00000000 02:00 00000000 0 0 4711 2 0 20"
            )
        };
        let ours = ["4711".to_owned()];
        assert!(all_sent(&row("00000000"), &ours));
        assert!(!all_sent(&row("00000024"), &ours));
        assert!(!all_sent(&row("00000000"), &["99".to_owned()]));
    }

    #[test]
    fn only_a_younger_session_is_fresh() {
        let s = |pid, started| Session { pid, started };
        assert!(!is_fresh(&s(1, 50), None, 50));
        assert!(is_fresh(&s(1, 60), None, 50));
        assert!(!is_fresh(&s(1, 60), Some(&s(1, 60)), 50));
    }
}
