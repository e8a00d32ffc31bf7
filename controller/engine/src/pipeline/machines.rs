//! The machines that build, as people see them: their records, and an event when one is lost or back. Who builds what
//! is Nix' own matter.

use std::collections::BTreeMap;
use std::rc::Rc;

use futures::StreamExt as _;
use trueup_schema::status::{Reason, Severity, Subject};

use crate::ports::{MachineState, MachineStatus};
use crate::record::{BUILDERS, BuilderRecord};
use crate::state::{Shared, delete, note, put};

/// Records and events of one commit: few, since each event may have a message for each alert beside it.
const AT_ONCE: usize = 10;

/// Runs for ever.
pub(crate) async fn run(sh: Rc<Shared>) {
    // What the run before saw is old; who is no longer in the fleet goes with the first news.
    let mut known: BTreeMap<String, Option<MachineStatus>> = BTreeMap::new();
    if let Ok((_, entries)) = sh.ports.db.list(BUILDERS).await {
        let names = entries.iter().map(|e| (e.key.name().to_owned(), None));
        known.extend(names);
    }
    let mut news = sh.ports.builder.machines();
    while let Some(all) = news.next().await {
        tell(&sh, &mut known, all).await;
    }
}

async fn tell(
    sh: &Rc<Shared>,
    known: &mut BTreeMap<String, Option<MachineStatus>>,
    all: Vec<MachineStatus>,
) {
    let Some(fleet) = sh.state.borrow().fleet.clone() else {
        return;
    };
    let (mut ops, mut events) = (Vec::new(), Vec::new());
    let gone: Vec<String> = known
        .keys()
        .filter(|name| !fleet.builders.contains_key(*name))
        .cloned()
        .collect();
    for name in gone {
        ops.extend(delete("builders", &name));
        known.remove(&name);
    }
    for status in all {
        let Some(manifest) = fleet.builders.get(&status.name) else {
            continue;
        };
        let before = known.get(&status.name).and_then(Option::as_ref);
        if before == Some(&status) {
            continue;
        }
        let was = before.map(|b| b.state);
        let told = match (was, status.state) {
            (was, MachineState::Lost) if was != Some(MachineState::Lost) => Some(note(
                Severity::Warning,
                Reason::BuilderLost,
                format!("builds go elsewhere until it answers: {}", status.message),
            )),
            (Some(MachineState::Lost), MachineState::Ready) => Some(note(
                Severity::Info,
                Reason::BuilderReady,
                status.message.clone(),
            )),
            _ => None,
        };
        if let Some(told) = told {
            let subject = Subject::Controller(format!("builder {}", status.name));
            events.push(sh.event(subject, &told, None));
        }
        let record = BuilderRecord {
            manifest: manifest.clone(),
            status: status.clone(),
        };
        ops.extend(put("builders", &status.name, &record));
        known.insert(status.name.clone(), Some(status));
    }
    let mut events = events.into_iter();
    for ops in ops.chunks(AT_ONCE) {
        let some = events.by_ref().take(AT_ONCE).collect();
        let _told = sh.commit(ops.to_vec(), some).await;
    }
}
