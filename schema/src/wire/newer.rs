//! A report of a later agent: words of lists that have grown since. Each is read as the one that promises least, and named
//! in the report's warnings, so that a word costs its own meaning and never the report. Nothing else is mended.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Activation, AttemptState, ConfirmBy, Stage};
use crate::status::Outcome;

/// A word is shown so far.
const WORD_MAX: usize = 60;
/// So many are named; a report that has more of them is another format.
const NOTES_MAX: usize = 8;

/// Replaces the words that are not known here; gives what people are told of each.
pub(super) fn reads(report: &mut Value) -> Vec<String> {
    let mut notes = Notes(Vec::new());
    // Not known to have run to its end.
    if let Some(word) = report.pointer_mut("/running/activation") {
        notes.instead::<Activation>(word, "running.activation", "partial");
    }
    if let Some(attempt) = report.get_mut("attempt").filter(|a| a.is_object()) {
        for (field, read) in [
            // Not ours to confirm, so it is waited for.
            ("/confirm/by", Notes::confirm as fn(&mut Notes, &mut Value)),
            // Under way: nothing is done but to look again.
            ("/state", Notes::state),
            // Not known to be good.
            ("/outcome", Notes::outcome),
        ] {
            if let Some(word) = attempt.pointer_mut(field) {
                read(&mut notes, word);
            }
        }
        if let Some(word) = attempt.get_mut("stage") {
            notes.nothing_instead::<Stage>(word, "attempt.stage");
        }
        if let Some(Value::Array(timeline)) = attempt.get_mut("timeline") {
            timeline.retain_mut(|entry| match entry.get_mut(1) {
                Some(word) => !notes.nothing_instead::<Stage>(word, "attempt.timeline"),
                None => true,
            });
        }
    }
    let components = report.get_mut("components").and_then(Value::as_array_mut);
    for component in components.into_iter().flatten() {
        if let Some(word) = component.pointer_mut("/last/1") {
            notes.instead::<Outcome>(word, "components.last", "Failed");
        }
    }
    notes.0
}

struct Notes(Vec<String>);

impl Notes {
    fn confirm(&mut self, word: &mut Value) {
        self.instead::<ConfirmBy>(word, "attempt.confirm.by", "unknown");
    }

    fn state(&mut self, word: &mut Value) {
        self.instead::<AttemptState>(word, "attempt.state", "activating");
    }

    fn outcome(&mut self, word: &mut Value) {
        self.instead::<Outcome>(word, "attempt.outcome", "Failed");
    }

    fn instead<T: DeserializeOwned>(&mut self, word: &mut Value, field: &str, known: &str) {
        if self.is_news::<T>(word, field, known) {
            *word = known.into();
        }
    }

    /// `true`: it was not known, and is nothing now.
    fn nothing_instead<T: DeserializeOwned>(&mut self, word: &mut Value, field: &str) -> bool {
        let news = self.is_news::<T>(word, field, "nothing");
        if news {
            *word = Value::Null;
        }
        news
    }

    /// Is it a word, and none of these? What is no word at all is left for the reader to refuse.
    fn is_news<T: DeserializeOwned>(&mut self, word: &Value, field: &str, known: &str) -> bool {
        let Some(text) = word.as_str() else {
            return false;
        };
        if T::deserialize(word).is_ok() {
            return false;
        }
        if self.0.len() < NOTES_MAX {
            let shown: String = text.chars().take(WORD_MAX).collect();
            self.0.push(format!(
                "its {field} is `{}`, which this controller does not know (a later agent's?): read as `{known}`",
                shown.escape_default()
            ));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Report;
    use serde_json::json;

    /// As an agent of this release writes it.
    fn report() -> Value {
        json!({
            "format": 1, "host": "web-1",
            "identity": { "machineId": "0123", "hostKeys": [] },
            "bootId": "b", "sequence": 3, "takenAt": "2026-11-22T00:00:00Z",
            "inReplyTo": { "term": 1, "serial": 2 }, "greatest": { "term": 1, "serial": 2 },
            "agent": { "version": "0.1.0", "path": null, "understands": ["component/system/1"] },
            "running": {
                "running": null, "profile": null, "booted": null, "bootDefault": null, "loader": "grub",
                "activation": "complete", "failedUnits": []
            },
            "attempt": {
                "term": 1, "serial": 2, "revision": format!("main@sha1:{}", "a".repeat(40)), "goals": {}, "closure": null,
                "state": "ended", "nonce": null, "deadlineInSecs": null,
                "confirm": { "by": "controller", "timeoutSecs": 60 },
                "outcome": "Succeeded", "stage": "boot", "message": null,
                "timeline": [["2026-11-22T00:00:00Z", "accept"], ["2026-11-22T00:00:01Z", "boot"]]
            },
            "components": [{
                "name": "system", "confirmed": null, "observed": null,
                "last": ["0".repeat(64), "Succeeded"]
            }],
            "warnings": ["of its own"]
        })
    }

    fn with(field: &str, word: &str) -> Result<Report, serde_json::Error> {
        let mut report = report();
        *report.pointer_mut(field).unwrap() = word.into();
        serde_json::from_str(&report.to_string())
    }

    #[test]
    fn a_report_of_this_release_is_read_as_it_is() {
        let read: Report = serde_json::from_value(report()).unwrap();
        assert_eq!(read.warnings, ["of its own"]);
        let again: Report = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
        assert_eq!(again, read);
    }

    #[test]
    fn a_word_that_is_not_known_costs_its_own_meaning_and_not_the_report() {
        let same: Report = serde_json::from_value(report()).unwrap();
        for (field, name) in [
            ("/attempt/confirm/by", "attempt.confirm.by"),
            ("/attempt/state", "attempt.state"),
            ("/attempt/outcome", "attempt.outcome"),
            ("/attempt/stage", "attempt.stage"),
            ("/attempt/timeline/0/1", "attempt.timeline"),
            ("/running/activation", "running.activation"),
            ("/components/0/last/1", "components.last"),
        ] {
            let mut read = with(field, "quorum").unwrap();
            let told = read.warnings.pop().unwrap();
            assert!(told.contains(name) && told.contains("`quorum`"), "{told}");
            assert_eq!(read.warnings, ["of its own"], "{field}");
            assert_eq!(read.sequence, same.sequence);
        }
        let attempt = |field, word| with(field, word).unwrap().attempt.unwrap();
        let by = attempt("/attempt/confirm/by", "quorum").confirm.unwrap().by;
        assert_eq!(by, ConfirmBy::Unknown, "and not the controller's to give");
        let outcome = attempt("/attempt/outcome", "SucceededMostly").outcome;
        assert_eq!(
            outcome,
            Some(Outcome::Failed),
            "nothing unknown is a success"
        );
        let state = attempt("/attempt/state", "draining").state;
        assert_eq!(state, AttemptState::Activating, "waited for");
        let stages = attempt("/attempt/timeline/0/1", "drain").timeline;
        assert_eq!(stages.len(), 1);
        assert_eq!(stages[0].1, Stage::Boot);
    }

    #[test]
    fn what_is_no_word_is_still_refused_and_what_is_long_is_cut() {
        let mut odd = report();
        odd["attempt"]["outcome"] = json!({ "Succeeded": true });
        assert!(serde_json::from_value::<Report>(odd).is_err());
        assert!(
            with("/attempt/revision", "quorum").is_err(),
            "no list of words"
        );
        let read = with("/attempt/stage", &"x\u{1b}".repeat(1000)).unwrap();
        let told = read.warnings.last().unwrap();
        assert!(told.len() < 600 && !told.contains('\u{1b}'), "{told}");
        let mut many = report();
        let entry = json!(["2026-11-22T00:00:00Z", "drain"]);
        many["attempt"]["timeline"] = vec![entry; 100].into();
        let read: Report = serde_json::from_value(many).unwrap();
        assert_eq!(read.warnings.len(), 1 + NOTES_MAX);
    }
}
