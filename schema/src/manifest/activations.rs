//! Rules of activations that no document shows alone: a window to reboot in, a witness that confirms. Changes nothing.

use std::collections::BTreeMap;

use super::{
    cross::{Cross, at, documents},
    decode::nearest,
    problem::ProblemKind,
    read::{Document, Spec},
    tree::{Node, Value},
};
use crate::{
    HostName,
    kind::{Confirm, Delivery, Kind, Reboot, ResolvedHost},
    wire::WITNESS_KEY_TYPE,
};

const WINDOW: &str = "rebootWindow";
const WITNESS: [&str; 3] = ["spec", "activation", "witness"];
const JUMP: [&str; 3] = ["spec", "ssh", "jump"];

impl Cross<'_> {
    /// Each host that is rebooted within a window has one.
    pub(super) fn window(&mut self, document: &Document, host: &ResolvedHost) {
        if host.reboot != Reboot::Window || host.reboot_window.is_some() {
            return;
        }
        // One that is there and can't be read, or whose name is misspelt, was told where it stands.
        let files = self.files;
        if documents(files)
            .filter(|d| d.kind == Kind::Fleet)
            .any(|d| tries_a_window(&d.node))
            || tries_a_window(&document.node)
        {
            return;
        }
        let text = format!(
            "Host `{}` is rebooted within a window, and has none",
            host.name
        );
        let help =
            "add `rebootWindow: 02:00-04:00` (UTC) here or where `reboot: window` is".to_owned();
        let place = at(document, &["spec"]);
        self.report(document, ProblemKind::Conflict, place, text, help);
    }

    /// Each witness is another host, one that the controller speaks to, and both are known by their keys.
    pub(super) fn witnesses(&mut self, hosts: &BTreeMap<HostName, ResolvedHost>) {
        let files = self.files;
        for document in documents(files) {
            let (Some(meta), Spec::Host(Some(spec))) = (&document.meta, &document.spec) else {
                continue;
            };
            let Some(host) = hosts.values().find(|h| h.name.as_str() == meta.name) else {
                continue;
            };
            let own = spec.activation.as_ref().and_then(|a| a.witness.as_ref());
            if host.activation.confirm == Confirm::Witness {
                self.witness(document, host, hosts);
            } else if own.is_some() {
                let text = format!(
                    "Host `{}` names a witness, and is confirmed by `{}`",
                    host.name, host.activation.confirm
                );
                let help = "add `confirm: witness` beside it, or take it out".to_owned();
                let place = at(document, &WITNESS);
                self.report(document, ProblemKind::Conflict, place, text, help);
            }
        }
    }

    fn witness(
        &mut self,
        document: &Document,
        host: &ResolvedHost,
        hosts: &BTreeMap<HostName, ResolvedHost>,
    ) {
        let name = &host.name;
        let place = at(document, &WITNESS);
        let Some(witness) = &host.activation.witness else {
            if document.node.find(&WITNESS, None).is_none() {
                let text = format!("Host `{name}` is confirmed by a witness, and names none");
                let help = "add `activation.witness: NAME`, another host of the fleet".to_owned();
                self.report(document, ProblemKind::Conflict, place, text, help);
            }
            return;
        };
        if witness == name {
            let text = format!("Host `{name}` is to be its own witness");
            let help = "name another host, one that reaches this one by SSH".to_owned();
            return self.report(document, ProblemKind::Conflict, place, text, help);
        }
        if !self.is_host(witness) {
            if self.whole {
                let text = format!("there is no host `{witness}`");
                let help = self.meant(witness);
                self.report(document, ProblemKind::UnknownHost, place, text, help);
            }
            return;
        }
        // Its own problems were told at its own document.
        let Some(other) = hosts.get(witness) else {
            return;
        };
        if other.delivery != Delivery::Push {
            let text = format!(
                "Host `{name}` has the witness `{witness}`, whose `delivery` is `{}`",
                other.delivery
            );
            let help = "name a host that the controller pushes to: it must be told when to look"
                .to_owned();
            return self.report(document, ProblemKind::Conflict, place, text, help);
        }
        let signs = other
            .ssh
            .host_keys
            .iter()
            .any(|k| k.kind() == WITNESS_KEY_TYPE);
        if !signs {
            let text = format!(
                "Host `{name}` has the witness `{witness}`, which has no {WITNESS_KEY_TYPE} key in `ssh.hostKeys`"
            );
            let help = format!(
                "add it to Host `{witness}`: `ssh-keyscan -t ed25519 ADDRESS`, checked against the host; by it `{name}` knows its witness"
            );
            self.report(document, ProblemKind::NoHostKey, place, text, help);
        }
        if let Some(jump) = &host.ssh.jump {
            let text = format!(
                "Host `{name}` is reached by way of `{jump}`, and its witness `{witness}` knows no such way"
            );
            let help = format!(
                "the witness goes to `address` itself: where it gets there, put the controller's way into its own `~/.ssh/config` \
                 (`ProxyJump {jump}`) and take `jump` out; else `confirm: controller`"
            );
            // Where it stands: here, or with the witness if the fleet says it.
            let place = match document.node.find(&JUMP, None) {
                Some(_) => at(document, &JUMP),
                None => place,
            };
            self.report(document, ProblemKind::Conflict, place, text, help);
        }
        if host.ssh.host_keys.is_empty() {
            let text = format!("Host `{name}` has a witness, and no `ssh.hostKeys`");
            let help = "add its key: `ssh-keyscan -t ed25519 ADDRESS`, checked against the host; by it the witness knows whom it sees"
                .to_owned();
            let place = at(document, &["spec"]);
            self.report(document, ProblemKind::NoHostKey, place, text, help);
        }
    }
}

/// Is there a `rebootWindow` of whatever value, or a name that was meant as it?
fn tries_a_window(document: &Node) -> bool {
    let mut layers: Vec<&Node> = [&["spec"][..], &["spec", "defaults"]]
        .iter()
        .filter_map(|path| document.find(path, None))
        .collect();
    if let Some(Value::List(overrides)) = document
        .find(&["spec", "overrides"], None)
        .map(|n| &n.value)
    {
        layers.extend(overrides.iter().filter_map(|o| o.find(&["set"], None)));
    }
    layers.iter().any(|layer| match &layer.value {
        Value::Map(entries) => entries
            .iter()
            .any(|e| nearest(&e.key, std::iter::once(WINDOW)).is_some()),
        _ => false,
    })
}
