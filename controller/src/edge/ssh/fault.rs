//! What ssh, sudo and Nix complain of, as the engine's faults, with the next step to take.

use trueup_engine::ports::{Target, TransportError, TransportFault};

use super::error;
use crate::edge::exec::Exit;

/// Without pins nobody is spoken to.
pub const NO_KEY: &str = "no host key is pinned: add `ssh.hostKeys` to its manifest (`ssh-keyscan -t ed25519 ADDRESS`, and compare)";

/// ssh's own failures end with this.
const SSH_FAILED: i32 = 255;
/// A shell, and sudo, when the program is not there.
const NOT_FOUND: [i32; 2] = [127, 126];

/// The agent, where it does not know a word: as it is, and behind a forced command.
const NOT_KNOWN: [i32; 2] = [2, 77];

/// What a shell, and sudo, say when the other end of `nix copy` is not there.
const NO_NIX: [&str; 6] = [
    "nix-daemon: command not found",
    "nix-daemon: not found",
    "nix-store: command not found",
    "nix-store: not found",
    "nix-daemon: No such file",
    "nix-store: No such file",
];

/// The agent is not there yet.
pub fn lacks_program(exit: &Exit) -> bool {
    let text = exit.err_text();
    exit.code.is_some_and(|c| NOT_FOUND.contains(&c))
        || (exit.code == Some(1) && text.starts_with("sudo:") && text.contains("command not found"))
}

/// The host's own agent does not know these words: behind a forced command an older one than ours may answer.
pub fn is_too_old(exit: &Exit) -> bool {
    exit.code.is_some_and(|c| NOT_KNOWN.contains(&c))
}

fn last_line(text: &str) -> String {
    let line = text.lines().rev().find(|l| !l.trim().is_empty());
    line.unwrap_or("it said nothing")
        .trim()
        .chars()
        .take(500)
        .collect()
}

/// Of a command on the host.
pub fn of(target: &Target, exit: &Exit) -> TransportError {
    let text = exit.err_text();
    let said = last_line(&text);
    let has = |what: &str| text.contains(what);
    let (fault, next) = if has("Host key verification failed")
        || has("REMOTE HOST IDENTIFICATION HAS CHANGED")
    {
        (
            TransportFault::HostKey,
            "it shows another host key than its manifest pins; if it was reinstalled, change `ssh.hostKeys`",
        )
    } else if has("Permission denied (") || has("Too many authentication failures") {
        (
            TransportFault::Auth,
            "add the controller's public key to the authorized keys of this user",
        )
    } else if has("a password is required")
        || has("a terminal is required")
        || has("is not in the sudoers")
        || has("sudo: not found")
        || has("sudo: command not found")
    {
        (
            TransportFault::Privilege,
            "`become` needs sudo without a password: security.sudo.extraRules with NOPASSWD for this user",
        )
    } else if has("NotRoot:") || has(": Permission denied") {
        // The agent's word, or that of what makes its place on the host.
        (
            TransportFault::Privilege,
            "set `ssh.user: root`, or `ssh.become: true` with passwordless sudo",
        )
    } else if exit.code == Some(SSH_FAILED) || exit.code.is_none() {
        (TransportFault::Unreachable, "")
    } else if lacks_program(exit) {
        (
            TransportFault::Agent,
            "the agent does not run there: is `agent.packages` right for its `system`?",
        )
    } else {
        (TransportFault::Agent, "")
    };
    let message = if next.is_empty() {
        said
    } else {
        format!("{said}; {next}")
    };
    error(&target.host, fault, message)
}

/// Of `nix copy`.
pub fn of_copy(target: &Target, exit: &Exit, store_key: &str) -> TransportError {
    let text = exit.err_text();
    let has = |what: &str| text.contains(what);
    if has("lacks a signature by a trusted key") {
        let key = format!(
            "it trusts no key that signed them: add `{store_key}` to its nix.settings.trusted-public-keys, or sign with one that it trusts (`signing.keyFile`)"
        );
        return error(
            &target.host,
            TransportFault::Untrusted,
            format!("{}; {key}", last_line(&text)),
        );
    }
    if NO_NIX.iter().any(|said| has(said)) {
        let next = format!(
            "a login of {} finds no Nix there; is it NixOS? Elsewhere Nix has to be in the PATH of logins that are not interactive",
            target.user
        );
        return error(&target.host, TransportFault::Agent, next);
    }
    if has("Nix daemon disconnected unexpectedly") {
        let next = "its user may not use the Nix daemon: add it to nix.settings.allowed-users, or copy as root";
        return error(&target.host, TransportFault::Privilege, next);
    }
    let as_command = of(
        target,
        &Exit {
            code: Some(SSH_FAILED),
            ..exit.clone()
        },
    );
    if as_command.fault == TransportFault::Unreachable {
        return error(&target.host, TransportFault::Copy, last_line(&text));
    }
    as_command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target {
            host: "web-1".parse().unwrap(),
            system: "x86_64-linux".parse().unwrap(),
            address: "127.0.0.1".parse().unwrap(),
            port: 22,
            user: "root".to_owned(),
            become_root: false,
            host_keys: Vec::new(),
            jump: Vec::new(),
        }
    }

    #[test]
    fn each_complaint_has_its_fault_and_a_next_step() {
        let cases = [
            (
                255,
                "root@h: Permission denied (publickey).",
                TransportFault::Auth,
                "authorized keys",
            ),
            (
                255,
                "Host key verification failed.",
                TransportFault::HostKey,
                "hostKeys",
            ),
            (
                1,
                "sudo: a password is required",
                TransportFault::Privilege,
                "NOPASSWD",
            ),
            (
                1,
                "NotRoot: trueup-agent must run as root (directly, or by `sudo -n`); this is uid 1000",
                TransportFault::Privilege,
                "ssh.become: true",
            ),
            (
                1,
                "mkdir: cannot create directory '/nix/var/nix/gcroots/trueup': Permission denied",
                TransportFault::Privilege,
                "ssh.become: true",
            ),
            (
                255,
                "ssh: connect to host h port 22: Connection refused",
                TransportFault::Unreachable,
                "refused",
            ),
            (
                127,
                "sh: 1: /nix/x: not found",
                TransportFault::Agent,
                "agent.packages",
            ),
        ];
        for (code, text, fault, next) in cases {
            let exit = Exit {
                code: Some(code),
                stderr: text.into(),
                ..Exit::default()
            };
            let e = of(&target(), &exit);
            assert_eq!(e.fault, fault, "{text}");
            assert!(e.message.contains(next), "{}", e.message);
        }
        let exit = Exit {
            code: Some(1),
            stderr: "bash: line 1: nix-daemon: command not found\nerror: cannot open connection to remote store 'ssh-ng://root@h'".into(),
            ..Exit::default()
        };
        let e = of_copy(&target(), &exit, "k");
        assert_eq!(e.class(), trueup_schema::ErrorClass::Host);
        assert!(e.message.contains("finds no Nix there"), "{e}");
        let unsigned =
            "error: cannot add path '/nix/store/x' because it lacks a signature by a trusted key";
        let exit = Exit {
            code: Some(1),
            stderr: unsigned.into(),
            ..Exit::default()
        };
        let e = of_copy(&target(), &exit, "trueup-1:abc=");
        assert_eq!(e.fault, TransportFault::Untrusted);
        assert!(e.message.contains("`trueup-1:abc=`"), "{e}");
    }
}
