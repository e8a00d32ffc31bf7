//! The port's calls: what is said to a host, over which connection, and how long is waited.

use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use trueup_engine::ports::{Hosts, ReportStream, Target, TransportError, TransportFault};
use trueup_schema::wire::{
    AttemptState, Farewell, MAX_DOCUMENT, OfferReply, Order, Report, Signed,
};
use trueup_schema::{HostName, StorePath};

use super::config::Freshness;
use super::{ASK_WALL, SshHosts, Talk, error, fault, first_line, first_out, silent};
use crate::edge::exec;

/// Folders of attempts and links: little, but on a disk that may be slow.
const LEAVE_WALL: Duration = Duration::from_secs(120);
/// A new try to confirm begins this long after the one before, beside it.
const CONFIRM_PAUSE: Duration = Duration::from_millis(1500);
/// After a try that failed, the next one begins so soon at first.
const CONFIRM_BREATH: Duration = Duration::from_millis(50);
/// Tries to confirm that wait at once.
const CONFIRM_TRIES: usize = 5;
/// One of them: a login may take 25 s and then succeed. The host answers when it has committed; what takes longer is
/// asked again by the next try, or observed.
const TRY_WALL: Duration = Duration::from_secs(30);

#[async_trait(?Send)]
impl Hosts for SshHosts {
    async fn prepare(
        &self,
        target: &Target,
        paths: &[StorePath],
    ) -> Result<Vec<StorePath>, TransportError> {
        let target = &self.inner.way(target).await;
        let paths = paths.iter().map(StorePath::as_str);
        if self.inner.standing.has_room(&target.host) {
            let words: Vec<&str> = ["want", "--stay"]
                .into_iter()
                .chain(paths.clone())
                .collect();
            match self.inner.converse(target, &words, None).await? {
                Talk::Answered(running, line) => {
                    let lacking = first_line(target, &line)?;
                    self.inner.standing.keep(target, running);
                    return Ok(lacking);
                }
                Talk::Ended(exit) if !fault::is_too_old(&exit) => {
                    return Err(fault::of(target, &exit));
                }
                Talk::Ended(_) => {}
            }
            self.inner.standing.is_old(&target.host);
        }
        let words: Vec<&str> = ["want"].into_iter().chain(paths).collect();
        self.inner
            .ask(target, Freshness::Reuse, &words, ASK_WALL)
            .await
    }

    async fn offer(&self, target: &Target, intent: &Signed) -> Result<OfferReply, TransportError> {
        let pin = self.inner.settings.book.as_ref().map(|b| b.pin());
        let pin = pin.unwrap_or_else(|| self.inner.settings.pin.clone());
        let envelope = serde_json::json!({ "signed": intent, "pin": pin });
        let line = format!("{envelope}\n");
        let target = &self.inner.way(target).await;
        let stood = match self.inner.standing.take(target) {
            Some(session) => answer_of(target, session, line.as_bytes()).await?,
            None => None,
        };
        let (running, answer) = match stood {
            Some(answered) => answered,
            None => {
                let words = ["offer", "--follow"];
                match self.inner.converse(target, &words, Some(&line)).await? {
                    Talk::Answered(running, answer) => (running, answer),
                    Talk::Ended(exit) => return Err(fault::of(target, &exit)),
                }
            }
        };
        let reply: OfferReply = first_line(target, &answer)?;
        if matches!(reply, OfferReply::Begun { .. } | OfferReply::Busy { .. }) {
            let session = follow(self.inner.report.clone(), target.host.clone(), running);
            let mut following = self.inner.following.borrow_mut();
            if let Some(older) = following.insert(target.host.clone(), session) {
                older.abort();
            }
        }
        Ok(reply)
    }

    async fn copy(&self, target: &Target, paths: &[StorePath]) -> Result<(), TransportError> {
        let paths: Vec<&str> = paths.iter().map(StorePath::as_str).collect();
        let target = self.inner.way(target).await;
        self.inner.copy(&target, &paths).await
    }

    async fn confirm(
        &self,
        target: &Target,
        order: Order,
        nonce: &str,
        within_secs: u64,
    ) -> Result<Report, TransportError> {
        let slow = &self.inner.slow_exchange;
        slow.get_or_init(|| self.inner.ask_exchanges()).await;
        let order = order.to_string();
        let words = ["confirm", "--order", &order, "--nonce", nonce];
        let until = tokio::time::Instant::now() + Duration::from_secs(within_secs);
        let mut tries = FuturesUnordered::new();
        let mut breath = CONFIRM_BREATH;
        let mut last = error(
            &target.host,
            TransportFault::Unreachable,
            "no new connection came about",
        );
        loop {
            if tries.len() < CONFIRM_TRIES && tokio::time::Instant::now() < until {
                tries.push(
                    self.inner
                        .ask::<Report>(target, Freshness::New, &words, TRY_WALL),
                );
            } else if tries.is_empty() {
                return Err(last);
            }
            let pause = tokio::time::sleep(CONFIRM_PAUSE);
            tokio::pin!(pause);
            tokio::select! {
                Some(done) = tries.next() => match done {
                    Ok(report) => return Ok(report),
                    Err(e) => {
                        last = e;
                        // A host counts a connection's age in steps of 10 ms, and may take one that is new for one that is not:
                        // asked again soon, but what fails at once must not be asked in a tight loop.
                        exec::wait(breath).await;
                        breath = (breath * 4).min(CONFIRM_PAUSE);
                    }
                },
                () = &mut pause => {}
            }
        }
    }

    async fn witness(&self, witness: &Target, watch: &Signed) -> Result<(), TransportError> {
        let target = self.inner.way(witness).await;
        let line = format!("{}\n", serde_json::json!({ "signed": watch, "pin": null }));
        let exit = self
            .inner
            .agent(
                &target,
                Freshness::Reuse,
                &["witness"],
                line.as_bytes(),
                ASK_WALL,
            )
            .await?;
        if exit.ok() {
            return Ok(());
        }
        Err(fault::of(&target, &exit))
    }

    async fn leave(&self, target: &Target) -> Result<Farewell, TransportError> {
        let target = self.inner.way(target).await;
        self.inner
            .ask(&target, Freshness::Reuse, &["leave"], LEAVE_WALL)
            .await
    }

    async fn observe(&self, target: &Target) -> Result<Report, TransportError> {
        let target = self.inner.way(target).await;
        let report: Report = self
            .inner
            .ask(&target, Freshness::Reuse, &["report"], ASK_WALL)
            .await?;
        Ok(self.inner.tell_keys(&target, report).await)
    }

    fn reports(&self) -> ReportStream {
        match self.reports.borrow_mut().take() {
            Some(mut from) => futures::stream::poll_fn(move |cx| from.poll_recv(cx)).boxed_local(),
            None => futures::stream::empty().boxed_local(),
        }
    }
}

/// Says it over a session that stands, and waits for the answer. `None`: it stands no more.
async fn answer_of(
    target: &Target,
    mut running: exec::Running,
    line: &[u8],
) -> Result<Option<(exec::Running, String)>, TransportError> {
    let talk = async {
        running.say(line).await.ok()?;
        first_out(&mut running).await
    };
    let answer = tokio::time::timeout(ASK_WALL, talk).await;
    let answer = answer.map_err(|_| silent(target))?;
    Ok(answer.map(|answer| (running, answer)))
}

/// Passes on what the host says until the attempt ends or the connection does.
fn follow(
    to: mpsc::Sender<(HostName, Report)>,
    host: HostName,
    mut running: exec::Running,
) -> tokio::task::AbortHandle {
    exec::beside(async move {
        while let Some(line) = first_out(&mut running).await {
            if line.len() > MAX_DOCUMENT {
                continue;
            }
            match serde_json::from_str::<Report>(&line) {
                Ok(report) => {
                    let ended = report
                        .attempt
                        .as_ref()
                        .is_none_or(|a| a.state == AttemptState::Ended);
                    if to.try_send((host.clone(), report)).is_err() {
                        tracing::warn!(%host, "a report found no room; the next one has all that it had");
                    }
                    if ended {
                        break;
                    }
                }
                Err(e) => tracing::warn!(%host, "a line of its agent is not understood: {e}"),
            }
        }
    })
}
