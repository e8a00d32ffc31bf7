//! Which events are told to whom, and in which words: which host, what, why, what trueup did, what to do. Sends nothing.

use trueup_schema::kind::{Labels, ResolvedAlert};
use trueup_schema::status::{Event, Reason, Subject};

/// What a person needs to know at three in the morning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Which host, revision, build or part of the controller.
    pub subject: String,
    /// What happened.
    pub what: &'static str,
    /// Why, as the event has it.
    pub why: String,
    /// What trueup did about it.
    pub did: &'static str,
    /// What to do now.
    pub next: String,
}

impl Facts {
    /// All five in one text, as chats show it.
    #[must_use]
    pub fn text(&self) -> String {
        let Self {
            subject,
            what,
            why,
            did,
            next,
        } = self;
        format!("{subject} {what}\nwhy: {why}\ntrueup: {did}\nnext: {next}")
    }
}

/// Does this alert tell of this event? `labels`: those of the event's host.
///
/// An alert that could not be sent is an event too, but is never sent: two dead sinks would tell of each other for ever.
#[must_use]
pub fn matches(alert: &ResolvedAlert, event: &Event, labels: Option<&Labels>) -> bool {
    let of_host = alert
        .hosts
        .as_ref()
        .is_none_or(|s| labels.is_some_and(|l| s.matches(l)));
    !alert.suspend
        && event.reason != Reason::AlertFailed
        && event.severity >= alert.severity
        && (alert.kinds.is_empty() || alert.kinds.contains(&event.reason))
        && of_host
}

/// The five facts of an event.
#[must_use]
pub fn facts(event: &Event) -> Facts {
    let (subject, look) = match &event.subject {
        Subject::Host(h) => (h.to_string(), format!("trueup describe host/{h}")),
        Subject::Revision(r) => (r.short(), "trueup get revisions".to_owned()),
        Subject::Build(drv) => (drv.clone(), format!("trueup logs build {drv}")),
        Subject::Controller(part) => (part.clone(), "trueup get events".to_owned()),
    };
    let subject = match (&event.subject, &event.revision) {
        (Subject::Host(_), Some(r)) => format!("{subject} ({})", r.short()),
        _ => subject,
    };
    let (what, did, then) = words(event.reason);
    let retry = match &event.subject {
        Subject::Host(h) => format!("trueup reconcile --host {h}"),
        _ => "trueup reconcile".to_owned(),
    };
    let next = match then {
        Then::Nothing => format!("nothing; to see more: {look}"),
        Then::Commit => format!("commit a fix; to see more: {look}"),
        Then::Retry => format!("commit a fix, or try again: {retry} --retry; to see more: {look}"),
        Then::Reconcile => format!("if it is to be undone: {retry}; to see more: {look}"),
        Then::Look => look,
        Then::Person(todo) => format!("{todo}; to see more: {look}"),
    };
    Facts {
        subject,
        what,
        why: event.message.clone(),
        did,
        next,
    }
}

enum Then {
    Nothing,
    Commit,
    Retry,
    Reconcile,
    Look,
    Person(&'static str),
}

/// What happened, what trueup did about it, what is to be done: one row a reason.
fn words(reason: Reason) -> (&'static str, &'static str, Then) {
    use Reason as R;
    const GOES_ON: &str = "goes on by itself";
    const TRIES: &str = "tries again by itself, with growing pauses";
    const WAITS: &str = "changed nothing; the host stays as it is";
    const LAST_GOOD: &str = "left the fleet at the last good revision";
    const BACK: &str = "the host went back to what it ran before";
    match reason {
        R::RevisionAccepted => ("was accepted", GOES_ON, Then::Nothing),
        R::RevisionRejected => ("was not accepted", LAST_GOOD, Then::Commit),
        R::SourceFetchFailed => ("could not be fetched", TRIES, Then::Look),
        R::SourceRecovered => ("can be read again", GOES_ON, Then::Nothing),
        R::HistoryRewritten => (
            "was rewritten",
            LAST_GOOD,
            Then::Person("if that was meant: trueup source accept COMMIT"),
        ),
        R::HistoryAccepted => ("was accepted as rewritten", GOES_ON, Then::Nothing),
        R::EvaluationStarted | R::EvaluationFinished => ("is evaluated", GOES_ON, Then::Nothing),
        R::EvaluationFailed => ("could not be evaluated", WAITS, Then::Commit),
        R::BuildStarted | R::BuildFinished => ("is built", GOES_ON, Then::Nothing),
        R::BuildFailed => (
            "could not be built",
            "left each host that needs it as it is",
            Then::Commit,
        ),
        R::PublishFinished => ("is published", GOES_ON, Then::Nothing),
        R::PublishFailed => ("could not be published", TRIES, Then::Look),
        R::BuilderLost => (
            "does not answer",
            "lets other machines build until it does",
            Then::Person("look at the builder: trueup get builders"),
        ),
        R::BuilderReady => ("answers again", GOES_ON, Then::Nothing),
        R::Progressing | R::ProgressingWithRetry => ("is worked on", GOES_ON, Then::Nothing),
        R::ReconciliationSucceeded => ("is as it is to be", "confirmed it", Then::Nothing),
        R::HostAdded => ("is in the fleet", GOES_ON, Then::Nothing),
        R::HostReleased => ("is no longer in the fleet", "lets it be", Then::Nothing),
        R::HostAdopted => ("was adopted", GOES_ON, Then::Nothing),
        R::AdoptionRequired => (
            "is not adopted",
            "only observes it",
            Then::Person("trueup adopt host/NAME"),
        ),
        R::IdentityMismatch => (
            "is another machine than before",
            "touches it no more",
            Then::Person("if it was replaced: trueup adopt host/NAME"),
        ),
        R::Unreachable => ("does not answer", TRIES, Then::Look),
        R::Reachable => ("answers again", GOES_ON, Then::Nothing),
        R::CopyFailed => ("did not get its closure", TRIES, Then::Look),
        R::ActivationStarted | R::AwaitingConfirmation => ("activates", GOES_ON, Then::Nothing),
        R::ActivationOverdue => ("takes long to activate", "waits for it", Then::Look),
        R::ActivationFailed | R::Failed => ("failed", WAITS, Then::Retry),
        R::Confirmed => ("was confirmed", GOES_ON, Then::Nothing),
        R::ConfirmTimedOut => ("was not reached after its activation", BACK, Then::Retry),
        R::HealthCheckFailed => ("failed a health check", BACK, Then::Retry),
        R::Succeeded | R::Skipped => ("runs what it is to run", "confirmed it", Then::Nothing),
        R::RebootRequired => (
            "needs a reboot",
            "did all that can be done without one",
            Then::Person("reboot it when it suits"),
        ),
        R::RebootStarted => ("reboots", GOES_ON, Then::Nothing),
        R::Rebooted => ("was rebooted", GOES_ON, Then::Nothing),
        R::RebootOverdue => (
            "did not come back from its reboot",
            "set the old system as what a power cycle boots",
            Then::Person("cycle its power, or look at its console"),
        ),
        R::DryActivated => (
            "would be changed",
            "changed nothing: its mode is dryActivate",
            Then::Nothing,
        ),
        R::RolledBack => ("was rolled back", BACK, Then::Retry),
        R::RollbackFailed => (
            "could not be rolled back",
            "stopped; the host needs hands",
            Then::Person("look at the host"),
        ),
        R::BootNotCommitted => (
            "runs the new closure, but would boot the old one",
            TRIES,
            Then::Person("look at the host's boot loader"),
        ),
        R::Superseded => (
            "was switched by somebody else meanwhile",
            "stopped, and touched nothing more",
            Then::Reconcile,
        ),
        R::Interrupted => ("was interrupted", TRIES, Then::Look),
        R::Refused => (
            "refused what it was offered",
            WAITS,
            Then::Person("mend what it names, then: trueup reconcile"),
        ),
        R::Quarantined => (
            "is not given this closure again",
            "quarantined it there",
            Then::Retry,
        ),
        R::Drifted => (
            "is no longer what was confirmed",
            "follows the host's drift policy",
            Then::Reconcile,
        ),
        R::DriftCorrected => (
            "runs what it is to run again",
            "undid the drift",
            Then::Nothing,
        ),
        R::DriftEnded => ("is as it was confirmed again", GOES_ON, Then::Nothing),
        R::Suspended => ("is suspended", "only observes it", Then::Look),
        R::Resumed => ("is no longer suspended", GOES_ON, Then::Nothing),
        R::Held => ("is held back", "waits", Then::Look),
        R::HoldEnded => ("is no longer held there", GOES_ON, Then::Nothing),
        R::ObservedOnly => ("is observed only", WAITS, Then::Nothing),
        R::RollbackRequested => ("is taken back by hand", GOES_ON, Then::Look),
        R::RolledBackByHand => (
            "runs what a person took it back to",
            "does not deploy again what was taken back",
            Then::Commit,
        ),
        R::RollbackRefused => (
            "could not be taken back",
            "let it be as the trunk says",
            Then::Person("another one of: trueup history host/NAME, or git revert"),
        ),
        R::RollbackEnded => ("follows the trunk again", GOES_ON, Then::Nothing),
        R::LeaveRequested => ("is being left", GOES_ON, Then::Nothing),
        R::Left => ("was left", "removed what was its own there", Then::Nothing),
        R::LeaveFailed => ("could not be left", TRIES, Then::Look),
        R::BudgetExhausted => ("waits for the rollout's limits", "waits", Then::Look),
        R::DependencyNotReady => ("waits for another host", "waits", Then::Look),
        R::NudgeRequested | R::NudgeHandled => ("was asked for", GOES_ON, Then::Nothing),
        R::ControllerStarted => ("started", GOES_ON, Then::Nothing),
        R::KeysRotated => (
            "got other keys",
            "tells every host",
            Then::Person("trueup keys status"),
        ),
        R::AlertFailed => ("could not be told of", TRIES, Then::Look),
        R::Bug => (
            "met a fault of trueup",
            "stopped there",
            Then::Person("please report it, with the events"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trueup_schema::Timestamp;
    use trueup_schema::status::{Actor, Severity};

    fn event(reason: Reason, severity: Severity) -> Event {
        Event {
            id: String::new(),
            at: Timestamp::UNIX_EPOCH,
            severity,
            reason,
            subject: Subject::Host("web-2".parse().unwrap()),
            revision: Some(
                "main@sha1:bad5eedbad5eedbad5eedbad5eedbad5eedbad5e"
                    .parse()
                    .unwrap(),
            ),
            goal: None,
            message: "no contact on a new connection within 120 s".to_owned(),
            fields: std::collections::BTreeMap::default(),
            cause: None,
            by: Actor::controller(),
        }
    }

    fn alert() -> ResolvedAlert {
        ResolvedAlert {
            name: "chat".to_owned(),
            url: "http://chat".to_owned(),
            secret_file: "/secret".to_owned(),
            severity: Severity::Warning,
            kinds: Vec::new(),
            hosts: None,
            suspend: false,
        }
    }

    #[test]
    fn a_text_has_the_five_facts() {
        assert_eq!(
            facts(&event(Reason::RolledBack, Severity::Error)).text(),
            "web-2 (main@sha1:bad5eed) was rolled back\n\
             why: no contact on a new connection within 120 s\n\
             trueup: the host went back to what it ran before\n\
             next: commit a fix, or try again: trueup reconcile --host web-2 --retry; to see more: trueup describe host/web-2"
        );
    }

    #[test]
    fn an_event_passes_every_filter_or_is_not_told() {
        let web: Labels = [("role".to_owned(), "web".to_owned())].into();
        let e = event(Reason::RolledBack, Severity::Error);
        let told = |a: &ResolvedAlert| matches(a, &e, Some(&web));
        assert!(told(&alert()));
        assert!(!told(&ResolvedAlert {
            suspend: true,
            ..alert()
        }));
        assert!(!told(&ResolvedAlert {
            kinds: vec![Reason::Drifted],
            ..alert()
        }));
        let of = |s: &str| ResolvedAlert {
            hosts: Some(s.parse().unwrap()),
            ..alert()
        };
        assert!(told(&of("role=web")));
        assert!(!told(&of("role=db")));
        let info = event(Reason::Succeeded, Severity::Info);
        assert!(!matches(&alert(), &info, Some(&web)));
        assert!(!matches(&of("role=web"), &e, None));
    }

    #[test]
    fn a_dead_sink_is_not_told_of_itself() {
        assert!(!matches(
            &alert(),
            &event(Reason::AlertFailed, Severity::Error),
            None
        ));
    }
}
