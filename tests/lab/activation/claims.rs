//! Claims that a planted bug must break: each is checked against the program that ships, and then, in `planted`, against
//! one with the bug. An `Err` says that the claim does not hold; a panic that the test itself went wrong.

use super::*;

pub type Claim = fn(&Controller, &Host) -> Result<(), String>;

fn holds(
    what: &str,
    found: impl std::fmt::Debug + PartialEq,
    wanted: impl std::fmt::Debug,
    same: bool,
) -> Result<(), String> {
    if same {
        return Ok(());
    }
    Err(format!("{what}: found {found:?}, wanted {wanted:?}"))
}

/// Nothing lasts before the confirmation: neither profile nor boot default are the candidate.
pub fn nothing_lasts_unconfirmed(c: &Controller, host: &Host) -> Result<(), String> {
    let [_, profile, boot] = links(host);
    let good = c.closure(host, "base", &[("note", "unconfirmed")]);
    let order = c.begin(host, &good, &Ask::default());
    let attempt = c.until(host, order, AttemptState::AwaitingConfirmation);
    let found = links(host);
    let told = c.confirm(host, &attempt);
    assert_eq!(told.code, 0, "{told:?}");
    let wanted = [Some(good.to_string()), profile, boot];
    let same = found == wanted;
    holds("running, profile, boot default", found, wanted, same)
}

/// A master connection, as a person's `ControlPersist` keeps one, cannot confirm what it offered.
pub fn an_old_connection_confirms_nothing(c: &Controller, host: &Host) -> Result<(), String> {
    let master = Master::open(host);
    let before = links(host);
    let good = c.closure(host, "base", &[("note", "by-an-old-connection")]);
    let order = next_order();
    let ask = Ask {
        confirm_secs: 20,
        ..Ask::default()
    };
    let offered = master.sh(&c.offer_script(&good, order, &ask, ""));
    assert_eq!(offered.code, 0, "{offered:?}");
    let attempt = wait(PATIENCE, || {
        let out = master.sh(&format!("{}/bin/trueup-agent report", c.agent));
        let report: Report = serde_json::from_str(&out.stdout).ok()?;
        report
            .attempt
            .filter(|a| a.order == order && a.state >= AttemptState::AwaitingConfirmation)
    })
    .expect("it waits");
    let nonce = attempt.nonce.unwrap_or_default();
    let told = master.sh(&format!(
        "{}/bin/trueup-agent confirm --order {order} --nonce {nonce}",
        c.agent
    ));
    drop(master);
    let end = c.until(host, order, AttemptState::Ended);
    let refused = told.code == 1 && told.stderr.contains("NotFresh");
    holds(
        "the old connection's confirmation",
        (told, end.outcome),
        "NotFresh",
        refused,
    )?;
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    assert!(
        !end.evidence,
        "a silent controller is no evidence against the goal"
    );
    let now = links(host);
    let same = now == before;
    holds("running, profile, boot default", now, before, same)
}

/// On a host whose running system, profile and boot default differ, the way back leads to what ran, also when garbage was
/// collected meanwhile and nothing but the record named it any more.
pub fn the_way_back_leads_to_what_ran(c: &Controller, host: &Host) -> Result<(), String> {
    let by_hand = c.closure(host, "base", &[("note", "by-hand")]);
    let profile = c.closure(host, "base", &[("note", "in-the-profile")]);
    let set = host.sh(&format!(
        "nix-env -p {PROFILE} --set {profile} && {by_hand}/bin/switch-to-configuration test"
    ));
    assert_eq!(set.code, 0, "{set:?}");
    let before = links(host);
    assert_eq!(
        before[..2],
        [Some(by_hand.to_string()), Some(profile.to_string())]
    );
    assert_ne!(before[1], before[2], "the boot default is a third one");
    let bad = c.closure(host, "fails-at-start", &[]);
    let ask = Ask {
        settle_secs: 4,
        ..Ask::default()
    };
    let order = c.meanwhile(
        host,
        &bad,
        &ask,
        "awaitingConfirmation",
        "nix-collect-garbage >/root/gc.log 2>&1",
    );
    let end = c.until(host, order, AttemptState::Ended);
    let now = links(host);
    let same = now == before && end.outcome == Some(Outcome::RolledBack);
    holds("after the way back", (now, end), before, same)
}

/// When the agent is killed as soon as it has written that it waits, and does not come again, the host goes back none the
/// less, and on time: by the dead-man's first line, before the second one, and not at the activation's limit.
pub fn the_dead_man_acts(c: &Controller, host: &Host) -> Result<(), String> {
    const SECOND_LINE: Duration = Duration::from_secs(30);
    const ANY: &str = "[a-zA-Z]*";
    let before = links(host);
    let next = c.closure(host, "base", &[("note", "the-agent-is-gone")]);
    let ask = Ask {
        confirm_secs: 12,
        ..Ask::default()
    };
    let kept_away = host.sh(
        "d=/run/systemd/system/trueup-activate-.service.d; rm -f /run/killed; mkdir -p $d\n\
         printf '[Service]\\nRestart=no\\n' > $d/no.conf; systemctl daemon-reload",
    );
    assert_eq!(kept_away.code, 0, "{kept_away:?}");
    // Killed between this record and whatever follows it, kept from coming again, and reloads all through the window:
    // each restarts relative timers.
    let script = "pid=$(systemctl show --property=MainPID --value trueup-activate-$order.service)\n\
                  until grep -q '\"kind\":\"awaiting\"' /nix/var/trueup/journal/$order; do :; done; kill -9 $pid\n\
                  touch /run/killed; for i in $(seq 20); do systemctl daemon-reload; sleep 1; done\n\
                  rm -r /run/systemd/system/trueup-activate-.service.d; systemctl daemon-reload";
    let order = c.meanwhile(host, &next, &ask, ANY, script);
    wait(PATIENCE, || {
        (host.sh("test -e /run/killed").code == 0).then_some(())
    })
    .expect("it is killed");
    let patience = Duration::from_secs(ask.confirm_secs) + SECOND_LINE + Duration::from_secs(20);
    let end = wait(patience, || {
        let attempt = c.report(host)?.attempt?;
        (attempt.order == order && attempt.state == AttemptState::Ended).then_some(attempt)
    });
    let Some(end) = end else {
        return Err("nobody brought the host back".to_owned());
    };
    let by_it = end.message.as_ref().is_some_and(|m| m.contains("dead-man"));
    let now = links(host);
    let same = now == before && by_it;
    holds("after the dead-man", (now, &end), before, same)?;
    let at = |stage| {
        end.timeline
            .iter()
            .find(|(_, s)| *s == stage)
            .map(|(at, _)| *at)
    };
    let waited = at(trueup_schema::wire::Stage::RollBack)
        .expect("went back")
        .duration_since(at(trueup_schema::wire::Stage::Confirm).expect("waited"));
    let latest = Duration::from_secs(ask.confirm_secs) + SECOND_LINE;
    let on_time = waited.as_secs() < i64::try_from(latest.as_secs()).expect("small");
    holds("the first line's time", waited, latest, on_time)
}

/// An SSH master of our own, closed at the end.
struct Master {
    args: Vec<String>,
    dir: tempfile::TempDir,
    host: Host,
}

impl Master {
    fn open(host: &Host) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let options = [
            "-F/dev/null".to_owned(),
            format!("-oControlPath={}/m", dir.path().display()),
            format!("-oUserKnownHostsFile={}", host.known_hosts.display()),
            format!("-i{}", host.key.display()),
            "-oBatchMode=yes".to_owned(),
            "-oLogLevel=ERROR".to_owned(),
        ];
        let me = Self {
            args: options.to_vec(),
            dir,
            host: host.clone(),
        };
        let opened = me.ssh(&["-M", "-N", "-f", "-oControlPersist=yes"], None);
        assert_eq!(opened.code, 0, "{opened:?}");
        me
    }

    fn sh(&self, script: &str) -> Output {
        self.ssh(&[], Some(script))
    }

    fn ssh(&self, more: &[&str], script: Option<&str>) -> Output {
        // A master keeps the streams that it was started with: files, so that nobody waits for their end.
        let file = |name: &str| std::fs::File::create(self.dir.path().join(name)).expect("a file");
        let text =
            |name: &str| std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        let status = program("ssh")
            .args(&self.args)
            .args(more)
            .arg(format!("{}@{}", self.host.user, self.host.address))
            .args(script)
            .stdin(Stdio::null())
            .stdout(file("out"))
            .stderr(file("err"))
            .status()
            .expect("ssh runs");
        Output {
            code: status.code().unwrap_or(-1),
            stdout: text("out"),
            stderr: text("err"),
        }
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _gone = self.ssh(&["-O", "exit"], None);
    }
}
