//! Takes an intent: believes it or not, asks for what is missing, begins the attempt in a unit of its own.

use std::fs;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use trueup_core::agent::{Accepted, Event, Phase};
use trueup_schema::status::Outcome;
use trueup_schema::wire::{
    AttemptState, ConfirmBy, FORMAT, Intent, MAX_DOCUMENT, OfferReply, Order, Signed,
};
use trueup_schema::{StorePath, Timestamp};

use crate::changes::Changes;
use crate::component::{self, Parts};
use crate::files::{self, Layout};
use crate::journal::{self, Journal};
use crate::trust::{self, TrustError};
use crate::units::{Setting, Transient};
use crate::{
    AgentError, activate, contact, deadman, memory, report, resume, session, store, units,
};

/// A follower is woken by the journal, and looks by itself so often.
const LOOK: Duration = Duration::from_millis(200);
/// A follower goes away after so long.
const FOLLOW_LIMIT: Duration = Duration::from_secs(3600);

/// One line on standard input.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// The intent.
    pub signed: Signed,
    /// The controller's public key, for first contact.
    pub pin: Option<String>,
}

fn refused(reason: &str, message: String) -> OfferReply {
    OfferReply::Refused {
        reason: reason.to_owned(),
        message,
        greatest: None,
    }
}

/// Reads one line, bounded before it is parsed.
pub fn read_envelope(input: impl BufRead) -> Result<Envelope, AgentError> {
    let missing = || AgentError::Request("nothing was sent".to_owned());
    read_if_any(input)?.ok_or_else(missing)
}

/// The same; `None`: the other side went away without a word.
fn read_if_any(input: impl BufRead) -> Result<Option<Envelope>, AgentError> {
    let limit = 2 * MAX_DOCUMENT as u64;
    let mut line = String::new();
    let mut input = input.take(limit);
    input
        .read_line(&mut line)
        .map_err(|e| AgentError::Request(e.to_string()))?;
    if !line.ends_with('\n') && line.len() as u64 >= limit {
        return Err(AgentError::Request(format!("more than {limit} bytes")));
    }
    if line.is_empty() {
        return Ok(None);
    }
    let read = serde_json::from_str(&line);
    read.map(Some)
        .map_err(|e| AgentError::Request(e.to_string()))
}

/// The verb `want`: which of these paths are missing? Asked while the hub still builds them. Their links are made, as
/// for an offer that needs them: before the copy, so that no garbage collection comes between.
pub fn want(words: &[String]) -> Result<Vec<StorePath>, AgentError> {
    let paths: Result<Vec<StorePath>, _> = words.iter().map(|w| w.parse()).collect();
    let paths = paths.map_err(|_| AgentError::Usage("want [--stay] STORE-PATH…".to_owned()))?;
    let lacking = store::missing(&paths)?;
    root(&lacking)?;
    Ok(lacking)
}

/// The verb `want --stay`: the answer, and then an offer over the same session, followed, if one comes. One session less
/// for a delivery, and the copy may go on meanwhile.
pub fn want_and_stay(
    layout: &Layout,
    words: &[String],
    input: impl BufRead,
    mut out: impl Write,
) -> Result<(), AgentError> {
    say(&mut out, &want(words)?)?;
    let Some(envelope) = read_if_any(input)? else {
        return Ok(());
    };
    contact::note(layout);
    answer(layout, &envelope, true, out)
}

fn root(missing: &[StorePath]) -> Result<(), AgentError> {
    for path in missing {
        let at = Path::new(files::ROOTS).join(format!("wanted-{}", path.hash()));
        files::root(Path::new(path.as_str()), &at)?;
    }
    Ok(())
}

/// The verb `offer`, up to its answer.
pub fn offer(layout: &Layout, envelope: &Envelope) -> Result<OfferReply, AgentError> {
    let intent = match trust::verify(layout, &envelope.signed, envelope.pin.as_deref()) {
        Ok(intent) => intent,
        Err(TrustError::File(e)) => return Err(e.into()),
        Err(e) => return Ok(refused("Untrusted", e.to_string())),
    };
    if let Err(AgentError::Journal(e)) = resume::close_if_rebooted(layout) {
        return Ok(refused("JournalCorrupt", e.to_string()));
    }
    if let Some(no) = check(layout, &intent)? {
        return Ok(no);
    }
    let parts = match component::all(&intent) {
        Ok(parts) if !parts.is_empty() => parts,
        Ok(_) => return Ok(refused("Unsupported", "the intent has no goals".to_owned())),
        Err(e) => return Ok(refused("NotYet", e.to_string())),
    };
    if let Some(what) = parts.iter().find_map(|(_, p)| p.not_yet()) {
        return Ok(refused("NotYet", what));
    }
    if is_already(layout, &intent, &parts)? {
        return Ok(OfferReply::Already {
            order: intent.order,
        });
    }
    let needs: Vec<StorePath> = parts.iter().flat_map(|(_, p)| p.needs()).collect();
    let missing = store::missing(&needs)?;
    if !missing.is_empty() {
        // Before the copy: a garbage collection between copy and second offer would take it.
        root(&missing)?;
        return Ok(OfferReply::Need { paths: missing });
    }
    begin(layout, &intent, &needs)?;
    Ok(OfferReply::Begun {
        order: intent.order,
    })
}

fn check(layout: &Layout, intent: &Intent) -> Result<Option<OfferReply>, AgentError> {
    let no = |reason: &str, message: String| Ok(Some(refused(reason, message)));
    let missing: Vec<&String> = intent
        .requires
        .iter()
        .filter(|r| !report::UNDERSTANDS.contains(&r.as_str()))
        .collect();
    if intent.format != FORMAT || !missing.is_empty() {
        return no(
            "Unsupported",
            format!("format {}, missing: {missing:?}", intent.format),
        );
    }
    let here = files::text("/etc/machine-id");
    if intent.machine_id.as_ref().is_some_and(|id| *id != here) {
        return no("IdentityMismatch", format!("this machine is {here}"));
    }
    let greatest = report::greatest(layout)?;
    let last = journal::orders(layout).pop();
    let known = last
        .map(|order| journal::read_known(layout, order))
        .transpose()?;
    if let (Some(order), Some(Err(_))) = (last, &known)
        && goes_on(layout, order)
    {
        return Ok(Some(OfferReply::Busy { order }));
    }
    if let (Some(order), Some(Ok(Some(read)))) = (last, known)
        && (read.state.phase != Phase::Ended || order == intent.order)
    {
        return Ok(Some(if order == intent.order {
            wake(layout, order, read.state.phase)?;
            OfferReply::Begun { order }
        } else {
            wake(layout, order, read.state.phase)?;
            OfferReply::Busy { order }
        }));
    }
    if greatest.is_some_and(|g| intent.order <= g) {
        return Ok(Some(OfferReply::Refused {
            reason: "OrderTooLow".to_owned(),
            message: format!("{} is not above what was begun here", intent.order),
            greatest,
        }));
    }
    if intent.expires_at < Timestamp::now() {
        return no(
            "Expired",
            format!("it was good until {}", intent.expires_at),
        );
    }
    if intent.confirm.by == ConfirmBy::Itself {
        return no(
            "NotYet",
            "`confirm: self` comes with `delivery: pull`; `controller` and `none` are built"
                .to_owned(),
        );
    }
    if intent.confirm.by == ConfirmBy::Unknown {
        let message = "this agent does not know who is to confirm".to_owned();
        return no("Unsupported", message);
    }
    if intent.confirm.by == ConfirmBy::Witness && intent.confirm.witness.is_none() {
        let message = "a witness is to confirm, and the intent names none".to_owned();
        return no("Unsupported", message);
    }
    if let Some(hold) = report::hold(layout)? {
        return no(
            "Held",
            format!("by {} until {}: {}", hold.by, hold.until, hold.reason),
        );
    }
    let memory = memory::read(layout)?;
    for goal in &intent.goals {
        let hurt = memory
            .get(&goal.component)
            .is_some_and(|k| k.quarantined.contains(&goal.digest));
        if hurt && !intent.retry {
            return no(
                "Quarantined",
                format!(
                    "{} {} hurt this host before",
                    goal.component,
                    goal.digest.short()
                ),
            );
        }
    }
    Ok(None)
}

/// An attempt that has begun and whose unit is gone (a crash between journal and start) is started again; one whose
/// dead-man stands is left to it.
fn wake(layout: &Layout, order: Order, phase: Phase) -> Result<(), AgentError> {
    if phase != Phase::Ended && !goes_on(layout, order) {
        start_unit(layout, order)?;
    }
    Ok(())
}

/// Somebody is at it: its unit, or its dead-man.
fn goes_on(layout: &Layout, order: Order) -> bool {
    let guarded = ["armed", "fired"]
        .iter()
        .any(|k| layout.claim(k, order).exists());
    guarded || unit_runs(order)
}

fn unit_runs(order: Order) -> bool {
    let unit = deadman::activation_unit(order);
    units::systemctl(&["is-active", "--quiet"], &[&unit], units::SYSTEMCTL_LIMIT).is_ok()
}

/// Starts the activation's unit, unless it runs. After a boot the claim of a dead-man is there and the dead-man is not.
pub fn start_once(layout: &Layout, order: Order) -> Result<(), AgentError> {
    if unit_runs(order) {
        return Ok(());
    }
    start_unit(layout, order)
}

fn is_already(layout: &Layout, intent: &Intent, parts: &Parts) -> Result<bool, AgentError> {
    for (_, part) in parts {
        if !part.observe(layout)?.lasting {
            return Ok(false);
        }
    }
    let mut all = memory::read(layout)?;
    let before = all.clone();
    for goal in &intent.goals {
        let kept = all.entry(goal.component.clone()).or_default();
        if kept.confirmed.as_ref() != Some(&goal.digest) {
            kept.confirmed = Some(goal.digest.clone());
            kept.last = Some((goal.digest.clone(), Outcome::Skipped));
        }
    }
    if all != before {
        memory::write(layout, &all)?;
    }
    Ok(true)
}

fn begin(layout: &Layout, intent: &Intent, needs: &[StorePath]) -> Result<(), AgentError> {
    let order = intent.order;
    let dir = layout.attempt(order);
    fs::create_dir_all(&dir).map_err(|source| files::FileError::Write {
        path: dir.clone(),
        source,
    })?;
    files::sync_dir(&layout.root.join("attempts"))?;
    files::write_json(&dir.join("intent.json"), intent)?;
    let goals = intent
        .goals
        .iter()
        .map(|g| (g.component.clone(), g.digest.clone()))
        .collect();
    files::write_json(&layout.file("greatest"), &order)?;
    let journal = Journal::create(
        layout,
        order,
        Event::Accepted(Accepted {
            order,
            revision: intent.revision.clone(),
            goals,
            unattended: activate::unattended(intent.confirm.by),
            session: session::own(),
        }),
    )?;
    drop(journal); // the unit's process takes the lock
    let roots = Path::new(files::ROOTS);
    for path in needs {
        let name = format!("candidate-{order}.{}", path.hash());
        files::root(Path::new(path.as_str()), &roots.join(name))?;
    }
    for entry in fs::read_dir(roots).into_iter().flatten().flatten() {
        // Asked for by an offer, and copied or forgotten since.
        if entry.file_name().to_string_lossy().starts_with("wanted-") {
            let _gone = fs::remove_file(entry.path());
        }
    }
    if roots.is_dir() {
        // A host that is rebooted into it boots it from here.
        files::sync_dir(roots)?;
    }
    start_unit(layout, order)
}

/// Starts the activation in a unit of its own: it must outlive SSH, the agent and every reload.
pub fn start_unit(layout: &Layout, order: Order) -> Result<(), AgentError> {
    let agent = crate::own_path()?;
    let agent = agent.to_string_lossy();
    if let Some(own) = crate::own_store_path() {
        files::root(
            Path::new(own.as_str()),
            &Path::new(files::ROOTS).join(format!("agent-{order}")),
        )?;
    }
    let log = layout.attempt(order).join("agent.log");
    let log = log.to_string_lossy();
    let own = [
        Setting::Micros("RestartSec", 0),
        Setting::Signed("OOMScoreAdjust", -900),
        Setting::Append("StandardOutput", &log),
        Setting::Append("StandardError", &log),
    ];
    units::start(&Transient {
        name: &deadman::activation_name(order),
        service: &[units::LASTING.as_slice(), &own].concat(),
        timer: &[],
        command: &[&agent, "activate", "--order", &order.to_string()],
    })?;
    Ok(())
}

/// The verb `offer`: the answer, and if it is to be followed what becomes of it.
pub fn answer(
    layout: &Layout,
    envelope: &Envelope,
    is_followed: bool,
    mut out: impl Write,
) -> Result<(), AgentError> {
    let reply = offer(layout, envelope)?;
    say(&mut out, &reply)?;
    match reply {
        // Who is told that it has begun knows that it is activating.
        OfferReply::Begun { order } if is_followed => {
            let told = (AttemptState::Activating, Vec::new());
            follow(layout, order, Some(told), out)
        }
        OfferReply::Busy { order } if is_followed => follow(layout, order, None, out),
        _ => Ok(()),
    }
}

/// A `Report` line at each change of state, from what was `told` on, until the attempt ended.
pub fn follow(
    layout: &Layout,
    order: Order,
    mut told: Option<(AttemptState, Vec<String>)>,
    mut out: impl Write,
) -> Result<(), AgentError> {
    let begun = Instant::now();
    let changes = Changes::of(&layout.root.join("journal"));
    while begun.elapsed() < FOLLOW_LIMIT {
        let read = journal::read(layout, order)?;
        let Some(state) = read.map(|r| r.state) else {
            return Err(AgentError::NoAttempt(order.to_string()));
        };
        let now = (report::state_of(state.phase), state.waiting_jobs.clone());
        let wanted = contact::is_wanted(layout, order);
        if told.as_ref() != Some(&now) || wanted {
            say(&mut out, &report::take_of_attempt(layout)?)?;
            told = Some(now);
        }
        if wanted {
            contact::note_if_heard(layout, order);
        }
        if state.phase == Phase::Ended {
            return Ok(());
        }
        changes.wait(LOOK);
    }
    Ok(())
}

/// One line of JSON, sent at once.
pub fn say<T: Serialize>(out: &mut impl Write, value: &T) -> Result<(), AgentError> {
    let mut line = serde_json::to_vec(value).map_err(|e| AgentError::Answer(e.into()))?;
    line.push(b'\n');
    out.write_all(&line).map_err(AgentError::Answer)?;
    out.flush().map_err(AgentError::Answer)
}
