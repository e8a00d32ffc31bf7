//! A rollback by hand, where the engine has a part in it: whether its closure is still to be had, and when it is over. How
//! it is delivered is no matter of its own.

use std::rc::Rc;

use trueup_core::host::{Problem, Work};
use trueup_core::rollback::{How, Over};
use trueup_schema::status::{Reason, Severity, Subject};
use trueup_schema::{ErrorClass, HostName};

use super::steps::{missed, target};
use crate::state::{Shared, State, note, put};

/// Over, by the trunk or because there is no such closure any more? Written with its event; until it is, decisions see the
/// same by themselves.
pub(super) async fn settle(sh: &Rc<Shared>, host: &HostName) {
    let Some((how, message)) = over(&sh.state.borrow(), host) else {
        return;
    };
    let Some(mut rollback) = sh
        .state
        .borrow()
        .rollbacks
        .get(host)
        .map(|b| b.rollback.clone())
    else {
        return;
    };
    rollback.over = Some(Over {
        at: sh.now(),
        how,
        message: message.clone(),
    });
    let told = match how {
        How::Refused => note(Severity::Error, Reason::RollbackRefused, message),
        How::Trunk | How::Lifted => note(Severity::Info, Reason::RollbackEnded, message),
    };
    let revision = {
        let state = sh.state.borrow();
        state.hosts.get(host).map(|c| c.record.revision.clone())
    };
    let event = sh.event(Subject::Host(host.clone()), &told, revision);
    let Ok(op) = put("rollbacks", &rollback.id, &rollback) else {
        return;
    };
    if sh.commit(vec![op], vec![event]).await.is_ok() {
        let mut state = sh.state.borrow_mut();
        // Another one may have been asked for meanwhile.
        if state
            .rollbacks
            .get(host)
            .is_some_and(|b| b.rollback.id == rollback.id)
        {
            state.rollbacks.remove(host);
        }
    }
}

fn over(state: &State, host: &HostName) -> Option<(How, String)> {
    let back = state.rollbacks.get(host)?;
    let cell = state.hosts.get(host)?;
    if let Work::Failed(p) = &back.closure {
        return Some((How::Refused, p.message.clone()));
    }
    if back.rollback.holds(&cell.evaluation) {
        return None;
    }
    let by = &back.rollback.by.name;
    let text =
        format!("the trunk wants something else of it now: what {by} took back is no longer held");
    Some((How::Trunk, text))
}

/// Looks where the closure is: on the host, else in the hub's store. Nothing is built for a rollback.
pub(super) fn want(sh: &Rc<Shared>, host: &HostName) -> bool {
    let (id, to) = {
        let mut state = sh.state.borrow_mut();
        let evaluation = state.hosts.get(host).map(|c| c.evaluation.clone());
        let Some(back) = state.rollbacks.get_mut(host) else {
            return false;
        };
        if !evaluation.is_some_and(|e| back.rollback.holds(&e)) {
            return false;
        }
        back.closure = Work::Running(None);
        (back.rollback.id.clone(), back.rollback.to.clone())
    };
    let (sh2, host) = (sh.clone(), host.clone());
    let task = async move {
        let Some(target) = target(&sh2, &host) else {
            return;
        };
        let missing = sh2
            .ports
            .hosts
            .prepare(&target, std::slice::from_ref(&to))
            .await;
        let (work, needs) = match missing {
            Ok(none) if none.is_empty() => (Work::Done(()), None),
            Ok(paths) if sh2.ports.builder.is_valid(&to).await => (Work::Done(()), Some(paths)),
            Ok(_) => (Work::Failed(nowhere(&host, &to)), None),
            Err(e) => {
                missed(&sh2, &host, &e);
                (Work::None, None)
            }
        };
        {
            let mut state = sh2.state.borrow_mut();
            let back = state.rollbacks.get_mut(&host);
            if let Some(back) = back.filter(|b| b.rollback.id == id) {
                back.closure = work;
                let digest = back.rollback.digest.clone();
                if let Some(cell) = state.hosts.get_mut(&host) {
                    cell.record.memory.needs = needs.map(|paths| (digest, paths));
                    cell.dirty = true;
                }
            }
        }
        sh2.wake(&host, true);
    };
    sh.ports.rt.spawn("rollback", Box::pin(task));
    true
}

fn nowhere(host: &HostName, to: &trueup_schema::StorePath) -> Problem {
    Problem {
        class: ErrorClass::Desired,
        reason: Reason::RollbackRefused,
        message: format!(
            "{} is gone, from the host and from the hub's store: choose another of `trueup history host/{host}` with --to, \
             or `git revert` on the trunk, which builds it again",
            to.short()
        ),
        retry_at: None,
    }
}
