//! Which sessions a delivery opens: the port with a stand-in for `ssh` that notes what it is asked. Real hosts are the
//! lab's.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use trueup::edge::ssh::{SshHosts, SshSettings};
use trueup_engine::ports::{Hosts as _, Target};
use trueup_schema::wire::{OfferReply, Order, Signed};
use trueup_schema::{HostName, StorePath};

use crate::local;

const AGENT: &str = "/nix/store/00000000000000000000000000000000-trueup-agent";
const CLOSURE: &str = "/nix/store/11111111111111111111111111111111-system";
const ORDER: Order = Order { term: 1, serial: 7 };

/// Answers what `said` has to these words, one line; `stay`: what it does after the answer to `want --stay`.
fn ssh(dir: &Path, stay: &str) -> std::path::PathBuf {
    let reply = serde_json::to_string(&OfferReply::Already { order: ORDER }).unwrap();
    let script = format!(
        "#!/bin/sh\nwhile [ \"$1\" != {AGENT}/bin/trueup-agent ]; do [ $# = 0 ] && exit 0; shift; done\nshift\n\
         echo \"$*\" >> {asked}\nreply='{reply}'\ncase \"$*\" in\n\
         'want --stay '*) {stay};;\nwant*) echo '[\"{CLOSURE}\"]';;\n\
         offer*) read -r offered && echo \"$reply\";;\nesac\n",
        asked = dir.join("asked").display()
    );
    let file = dir.join("ssh");
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    file
}

fn asked(dir: &Path) -> Vec<String> {
    let all = std::fs::read_to_string(dir.join("asked")).unwrap_or_default();
    std::fs::write(dir.join("asked"), "").unwrap();
    all.lines().map(str::to_owned).collect()
}

fn target(name: &str) -> Target {
    Target {
        host: name.parse::<HostName>().unwrap(),
        system: "x86_64-linux".parse().unwrap(),
        address: "192.0.2.1".parse().unwrap(),
        port: 22,
        user: "root".to_owned(),
        become_root: false,
        host_keys: vec!["ssh-ed25519 AAAA".to_owned()],
        jump: Vec::new(),
    }
}

/// One delivery without a copy, twice; the words of each session.
fn deliveries(stay: &str) -> [Vec<String>; 2] {
    let dir = tempfile::tempdir().unwrap();
    let settings = SshSettings {
        ssh: ssh(dir.path(), stay),
        nix: "nix".into(),
        env: BTreeMap::from([("PATH".to_owned(), std::env::var_os("PATH").unwrap())]),
        identity: None,
        config: None,
        run_dir: dir.path().join("run"),
        hub: None,
        agents: BTreeMap::from([("x86_64-linux".parse().unwrap(), AGENT.into())]),
        pin: "pin".to_owned(),
        book: None,
        store_key: String::new(),
    };
    let closure: StorePath = CLOSURE.parse().unwrap();
    let target = target("web-1");
    let intent: Signed = serde_json::from_value(serde_json::json!({
        "payloadType": "x", "payload": "", "signatures": []
    }))
    .unwrap();
    local(async {
        let hosts = SshHosts::new(settings).unwrap();
        let mut all = [Vec::new(), Vec::new()];
        for words in &mut all {
            let lacks = hosts.prepare(&target, std::slice::from_ref(&closure)).await;
            assert_eq!(lacks.unwrap(), std::slice::from_ref(&closure));
            let reply = hosts.offer(&target, &intent).await.unwrap();
            assert_eq!(reply, OfferReply::Already { order: ORDER });
            *words = asked(dir.path());
        }
        all
    })
}

#[test]
fn the_session_that_said_what_lacks_takes_the_offer() {
    let stay = format!("echo '[\"{CLOSURE}\"]'; read -r offered && echo \"$reply\"");
    let one = [format!("want --stay {CLOSURE}")];
    assert_eq!(deliveries(&stay), [one.to_vec(), one.to_vec()]);
}

#[test]
fn a_session_that_ended_meanwhile_is_replaced() {
    let stay = format!("echo '[\"{CLOSURE}\"]'");
    let two = [
        format!("want --stay {CLOSURE}"),
        "offer --follow".to_owned(),
    ];
    assert_eq!(deliveries(&stay), [two.to_vec(), two.to_vec()]);
}

#[test]
fn an_older_agent_behind_a_forced_command_is_asked_as_it_knows_and_only_once_otherwise() {
    for code in [2, 77] {
        let [first, second] = deliveries(&format!("exit {code}"));
        let plain = [format!("want {CLOSURE}"), "offer --follow".to_owned()];
        assert_eq!(first[0], format!("want --stay {CLOSURE}"));
        assert_eq!(first[1..], plain);
        assert_eq!(second, plain);
    }
}
