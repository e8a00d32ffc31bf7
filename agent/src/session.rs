//! Which SSH connection this process belongs to, by its ancestors in `/proc`: a client's port proves nothing, the
//! start time of the connection's process does.

use trueup_core::agent::Session;

use crate::files;

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

/// Is this connection younger than the end of the activation, and not the one that offered?
/// The kernel rounds start times down to a tick, so equal means older.
#[must_use]
pub fn is_fresh(session: &Session, offered_by: Option<&Session>, since: u64) -> bool {
    session.started > since && offered_by != Some(session)
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
    fn only_a_younger_session_is_fresh() {
        let s = |pid, started| Session { pid, started };
        assert!(!is_fresh(&s(1, 50), None, 50));
        assert!(is_fresh(&s(1, 60), None, 50));
        assert!(!is_fresh(&s(1, 60), Some(&s(1, 60)), 50));
    }
}
