//! The stand-in for switch-to-configuration, row by row of `fixtures/README.md`, on a lab host. `TRUEUP_STC=PATH` runs
//! the same rows against that program (the real one, made for Debian's systemd); rows of the older kind are left out then.

use crate::closures::Closures;
use crate::harness::{Host, Lab, Output, wait};
use std::time::Duration;

/// What a run took and left.
#[derive(Debug)]
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
    /// `/run/current-system` afterwards.
    runs: Option<String>,
    /// `/run/nixos` afterwards, but for the lock: names in order.
    files: String,
}

struct Bench {
    lab: Lab,
    closures: Closures,
    real: Option<String>,
    /// The base: what the host runs and boots at first.
    a: String,
}

const VERBS: [&str; 5] = ["test", "switch", "boot", "dry-activate", "check"];
const SLOW: Duration = Duration::from_secs(30);

impl Bench {
    fn up() -> Option<Bench> {
        Bench::with("base", &[])
    }

    fn with(variant: &str, args: &[(&str, &str)]) -> Option<Bench> {
        let lab = Lab::up(&["h1"])?;
        let closures = Closures::of(&lab, "faults", &["h1"]);
        let real = std::env::var("TRUEUP_STC").ok();
        if let Some(program) = &real {
            let bytes = std::fs::read(program).expect("TRUEUP_STC names a program");
            closures.put(lab.host("h1"), &bytes, "/usr/local/bin/real-stc");
        }
        let mut bench = Bench {
            lab,
            closures,
            real,
            a: String::new(),
        };
        bench.a = bench.top(variant, args);
        bench
            .host()
            .read(&[&format!("{}/bin/lab-install", bench.a)]);
        Some(bench)
    }

    fn host(&self) -> &Host {
        self.lab.host("h1")
    }

    /// Builds a variant and copies it to the host.
    fn top(&self, variant: &str, args: &[(&str, &str)]) -> String {
        let top = match &self.real {
            None => self.closures.build("h1", variant, args),
            Some(_) => {
                let program = [("program", "/usr/local/bin/real-stc"), ("of", variant)];
                self.closures
                    .build("h1", "real", &[&program, args].concat())
            }
        };
        self.closures.copy(&top, self.host());
        top
    }

    fn generation(&self, top: &str) {
        self.host().read(&[
            "nix-env",
            "-p",
            "/nix/var/nix/profiles/system",
            "--set",
            top,
        ]);
    }

    fn run(&self, top: &str, verb: &str) -> Run {
        self.after(self.host().sh(&stc(top, verb)))
    }

    fn after(&self, output: Output) -> Run {
        let files = self
            .host()
            .sh("ls /run/nixos | grep -v lock | tr '\\n' ' '")
            .stdout;
        Run {
            code: output.code,
            stdout: output.stdout,
            stderr: output.stderr,
            runs: self.host().link("/run/current-system"),
            files: files.trim().to_owned(),
        }
    }

    fn boots(&self) -> Option<String> {
        self.host().link("/boot/default")
    }

    fn is(&self, unit: &str) -> String {
        self.host()
            .ssh(&["systemctl", "is-active", unit])
            .stdout
            .trim()
            .to_owned()
    }

    fn pid(&self, unit: &str) -> String {
        self.host().unit(unit, "MainPID")
    }

    /// Back to the base, which must work whatever was before.
    fn back(&self) -> Run {
        let run = self.run(&self.a, "test");
        assert_eq!(
            (run.code, run.runs.as_ref()),
            (0, Some(&self.a)),
            "the way back: {run:?}"
        );
        assert_eq!(run.files, "", "the way back: {run:?}");
        assert_eq!(self.is("app.service"), "active");
        run
    }
}

fn stc(top: &str, verb: &str) -> String {
    format!("{top}/bin/switch-to-configuration {verb}")
}

/// The lines that a run says besides those that come always.
fn said(run: &Run) -> Vec<&str> {
    run.stderr
        .lines()
        .filter(|line| {
            !line.starts_with("activating the conf")
                && !line.starts_with("reloading user units for ")
        })
        // the failing snippet's own
        .filter(|line| !line.starts_with("cat: "))
        .filter(|line| *line != "restarting sysinit-reactivation.target")
        .collect()
}

#[test]
fn each_verb_moves_what_it_should_and_no_more() {
    let Some(b) = Bench::up() else { return };
    let profile = b.host().link("/nix/var/nix/profiles/system");
    let new = b.top("base", &[("note", "two")]);
    for verb in ["check", "dry-activate", "boot"] {
        let run = b.run(&new, verb);
        assert_eq!(
            (run.code, run.runs.as_ref(), run.files.as_str()),
            (0, Some(&b.a), ""),
            "{verb}: {run:?}"
        );
    }
    let pid = b.pid("app.service");
    let run = b.run(&new, "test");
    assert_eq!((run.code, run.runs.as_ref()), (0, Some(&new)), "{run:?}");
    assert_eq!(
        said(&run),
        Vec::<&str>::new(),
        "equal units: nothing is said"
    );
    assert!(
        run.stderr
            .contains("activating the configuration...\nreloading user units for root...\n"),
        "{run:?}"
    );
    assert!(
        run.stderr
            .contains("restarting sysinit-reactivation.target\n"),
        "{run:?}"
    );
    assert_eq!(b.pid("app.service"), pid, "no unit was touched");
    assert_eq!(
        b.boots().as_ref(),
        Some(&b.a),
        "the default moves for generations only"
    );
    assert_eq!(b.host().link("/nix/var/nix/profiles/system"), profile);

    b.generation(&new);
    assert_eq!(b.run(&new, "test").code, 0);
    assert_eq!(b.boots().as_ref(), Some(&b.a), "test moves no default");
    assert_eq!(b.run(&new, "boot").code, 0);
    assert_eq!(b.boots().as_ref(), Some(&new));
    b.generation(&b.a);
    assert_eq!(b.run(&b.a, "switch").code, 0);
    assert_eq!(b.boots().as_ref(), Some(&b.a));
    assert_eq!(
        b.host().link("/run/booted-system").as_ref(),
        Some(&b.a),
        "booted is what stage 2 left"
    );

    let profiles = "/nix/var/nix/profiles/system-profiles";
    b.host().read(&["mkdir", "-p", profiles]);
    b.host().read(&[
        "nix-env",
        "-p",
        &format!("{profiles}/trueup"),
        "--set",
        &new,
    ]);
    assert_eq!(b.run(&new, "boot").code, 0);
    assert_eq!(
        b.boots().as_ref(),
        Some(&new),
        "a generation of another system profile counts"
    );
    b.host().crash();
    assert_eq!(b.host().link("/run/current-system").as_ref(), Some(&new));
    assert_eq!(b.host().link("/run/booted-system").as_ref(), Some(&new));
    assert_eq!(b.is("app.service"), "active");
}

#[test]
fn refusals_touch_nothing() {
    let Some(b) = Bench::up() else { return };
    let pid = b.pid("app.service");
    let untouched = |what: &str, run: &Run, code: i32| {
        assert_eq!(
            (run.code, run.runs.as_ref(), run.files.as_str()),
            (code, Some(&b.a), ""),
            "{what}: {run:?}"
        );
        assert_eq!(b.pid("app.service"), pid, "{what}");
    };
    let new = b.top("fails-at-start", &[]);
    for verb in ["", "frobnicate"] {
        let run = b.run(&new, verb);
        untouched("usage", &run, 1);
        assert!(
            run.stderr.starts_with(
                "Usage: switch-to-configuration [check|switch|boot|test|dry-activate]\n"
            ) || b.real.is_some()
        );
        assert_eq!(run.stderr.lines().count(), 6);
    }
    b.host().read(&["mv", "/etc/NIXOS", "/etc/NIXOS.away"]);
    for verb in VERBS {
        let run = b.run(&new, verb);
        untouched("not NixOS", &run, 2);
        assert_eq!(run.stderr, "This is not a NixOS installation!\n");
    }
    b.host().read(&["mv", "/etc/NIXOS.away", "/etc/NIXOS"]);

    for verb in VERBS {
        let run = b.after(b.host().sh(&format!(
            "flock /run/nixos/switch-to-configuration.lock {}",
            stc(&new, verb)
        )));
        untouched("lock", &run, 11);
        assert_eq!(run.stderr, "Could not acquire lock\n");
    }

    let refused = b.top("check-refuses", &[]);
    for verb in VERBS {
        let run = b.run(&refused, verb);
        untouched("check refuses", &run, 1);
        assert_eq!(
            run.stderr,
            "no license for this host\nPre-switch checks failed\n"
        );
    }
    let run = b.after(
        b.host()
            .sh(&format!("NIXOS_NO_CHECK=1 {}", stc(&refused, "check"))),
    );
    untouched("check skipped", &run, 0);
    let inhibited = b.top("inhibited", &[]);
    for (verb, code) in [
        ("test", 1),
        ("switch", 1),
        ("check", 1),
        ("boot", 0),
        ("dry-activate", 0),
    ] {
        untouched("inhibited", &b.run(&inhibited, verb), code);
    }

    let no_version = b.top("no-init-version", &[]);
    let run = b.run(&no_version, "test");
    untouched("no init-interface-version", &run, 1);
    assert!(
        run.stderr
            .starts_with("Error: File init-interface-version should exist\n\nCaused by:\n    "),
        "{run:?}"
    );
    untouched("the same", &b.run(&no_version, "boot"), 0);

    let esp = b.top("boot-fails", &[]);
    b.generation(&esp);
    for verb in ["boot", "switch"] {
        let run = b.run(&esp, verb);
        untouched("boot loader", &run, 1);
        assert!(
            run.stderr.ends_with("\nFailed to install bootloader\n"),
            "{run:?}"
        );
    }
    assert_eq!(b.boots().as_ref(), Some(&b.a));

    let unmoved = b.top("boot-unmoved", &[]);
    b.generation(&unmoved);
    assert_eq!(b.run(&unmoved, "boot").code, 0);
    assert_eq!(
        b.boots().as_ref(),
        Some(&b.a),
        "exit 0, and the default is where it was"
    );

    let init = b.top("init-changed", &[]);
    b.generation(&init);
    for verb in ["test", "dry-activate"] {
        let run = b.run(&init, verb);
        untouched("init", &run, 100);
        assert!(
            run.stderr
                .starts_with("Warning: the new NixOS configuration has an ‘init’ that is\n"),
            "{run:?}"
        );
    }
    untouched("init, check", &b.run(&init, "check"), 0);
    assert_eq!(b.boots().as_ref(), Some(&b.a));
    untouched("init, switch", &b.run(&init, "switch"), 100);
    assert_eq!(
        b.boots().as_ref(),
        Some(&init),
        "the default had moved before the refusal"
    );
    untouched("init, boot", &b.run(&init, "boot"), 0);

    b.host()
        .read(&["mv", "/run/current-system", "/run/current-system.away"]);
    assert_eq!(b.run(&b.a, "test").code, 100);
    b.host()
        .read(&["mv", "/run/current-system.away", "/run/current-system"]);

    let bad = b.top("bad-unit", &[]);
    untouched("bad unit, boot", &b.run(&bad, "boot"), 0);
    let run = b.run(&bad, "dry-activate");
    untouched("bad unit, dry", &run, 1);
    assert!(
        run.stderr
            .starts_with("Error: Failed to parse systemd unit file "),
        "{run:?}"
    );
    let run = b.run(&bad, "test");
    assert_eq!((run.code, run.runs.as_ref()), (1, Some(&b.a)), "{run:?}");
    assert_eq!(b.pid("app.service"), pid);
    b.back();
    b.host()
        .read(&["systemctl", "stop", "dbus.socket", "dbus.service"]);
    let run = b.run(&b.a, "test");
    b.host()
        .read(&["systemctl", "start", "dbus.socket", "dbus.service"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.stderr
            .starts_with("Error: Failed to open dbus connection"),
        "{run:?}"
    );
}

#[test]
fn exit_codes_of_units_that_fail_are_the_real_ones_whatever_they_hide() {
    let Some(b) = Bench::up() else { return };
    // variant, exit, state of which unit at the end, what is said about it
    let rows: [(&str, i32, &str, &str, &[&str]); 10] = [
        (
            "fails-at-start",
            4,
            "app.service",
            "failed",
            &[
                "stopping the following units: app.service",
                "starting the following units: app.service",
                "warning: the following units failed: app.service",
            ],
        ),
        (
            "fails-later",
            0,
            "app.service",
            "active",
            &[
                "stopping the following units: app.service",
                "starting the following units: app.service",
            ],
        ),
        (
            "crash-loop",
            0,
            "app.service",
            "active",
            &[
                "stopping the following units: app.service",
                "starting the following units: app.service",
            ],
        ),
        (
            "auto-restart",
            4,
            "app.service",
            "activating",
            &[
                "stopping the following units: app.service",
                "starting the following units: app.service",
                "warning: the following units failed: app.service",
            ],
        ),
        (
            "new-pre-fails",
            0,
            "new.service",
            "activating",
            &["the following new units were started: new.service"],
        ),
        ("missing-requires", 0, "new.service", "inactive", &[]),
        (
            "start-times-out",
            4,
            "app.service",
            "failed",
            &[
                "stopping the following units: app.service",
                "starting the following units: app.service",
                "Failed to start app.service",
                "warning: the following units failed: app.service",
            ],
        ),
        (
            "activation-fails",
            2,
            "app.service",
            "active",
            &["Failed to run activate script"],
        ),
        (
            "activation-and-unit-fail",
            4,
            "app.service",
            "failed",
            &[
                "stopping the following units: app.service",
                "Failed to run activate script",
                "starting the following units: app.service",
                "warning: the following units failed: app.service",
            ],
        ),
        (
            "depends-on-failing",
            4,
            "app.service",
            "inactive",
            &[
                "stopping the following units: app.service",
                "starting the following units: app.service",
                "Failed to start app.service",
                "warning: the following units failed: culprit.service",
            ],
        ),
    ];
    for (variant, code, unit, state, lines) in rows {
        let top = b.top(variant, &[]);
        let run = b.run(&top, "test");
        assert_eq!(
            (run.code, run.runs.as_ref(), run.files.as_str()),
            (code, Some(&top), ""),
            "{variant}: {run:?}"
        );
        assert_eq!(said(&run), lines, "{variant}");
        assert_eq!(b.is(unit), state, "{variant}");
        assert_eq!(
            run.stdout.contains("app.service - ") || run.stdout.contains("culprit.service - "),
            run.stderr.contains("units failed: "),
            "{variant}: status of failed units on stdout: {run:?}"
        );
        match variant {
            "fails-later" => {
                wait(SLOW, || (b.is(unit) == "failed").then_some(()))
                    .expect("it fails after the run");
            }
            "crash-loop" => {
                wait(SLOW, || {
                    (b.host().unit(unit, "NRestarts") != "0").then_some(())
                })
                .expect("it is restarted");
            }
            "new-pre-fails" => assert_eq!(b.host().unit(unit, "ExecMainStatus"), "0"),
            _ => {}
        }
        b.back();
        assert_eq!(
            b.host().ssh(&["systemctl", "is-failed", unit]).code,
            if unit == "app.service" { 1 } else { 4 },
            "{variant}"
        );
    }

    let none = b.top("no-activate", &[]);
    let run = b.run(&none, "test");
    assert_eq!((run.code, run.runs.as_ref()), (0, Some(&b.a)), "{run:?}");

    // failed before, of no closure: reset, stays down; a good run says nothing of it
    b.host()
        .sh("systemd-run --unit old-sorrow --property=RemainAfterExit=no /bin/false; sleep 0.5");
    let run = b.back();
    assert_eq!(said(&run), Vec::<&str>::new());
    // stopped by a person, wanted by a target: started by every switch, and named as new
    b.host().read(&["systemctl", "stop", "app.service"]);
    let run = b.back();
    assert_eq!(
        said(&run),
        ["the following new units were started: app.service"]
    );

    let conf = b.top("systemd-conf", &[]);
    let run = b.run(&conf, "test");
    assert_eq!(
        (run.code, said(&run)),
        (0, vec!["restarting systemd..."]),
        "{run:?}"
    );
    assert!(
        b.run(&b.a, "dry-activate")
            .stderr
            .contains("\nwould restart systemd\n")
    );

    // a user's manager that does not answer
    b.host()
        .sh("mv /run/user/0/systemd/private /run/user/0/systemd/away");
    let run = b.run(&b.a, "test");
    assert!(
        run.stderr
            .contains("warning: user activation for root failed\n")
            == (run.code == 4),
        "{run:?}"
    );
}

#[test]
fn a_changed_unit_is_treated_as_its_keys_say() {
    let Some(b) = Bench::with("kinds", &[]) else {
        return;
    };
    b.host().read(&["systemctl", "start", "k-by-hand.service"]);
    b.host().read(&["systemctl", "start", "k-behind.service"]);
    let units = [
        "k-changed",
        "k-restart",
        "k-keep",
        "k-reload",
        "k-trigger",
        "k-docs",
    ];
    let pids = || {
        units
            .iter()
            .map(|unit| b.pid(&format!("{unit}.service")))
            .collect::<Vec<_>>()
    };
    let before = pids();
    let new = b.top("kinds", &[("step", "b")]);

    let dry = b.run(&new, "dry-activate");
    assert_eq!((dry.code, dry.files.as_str()), (0, ""), "{dry:?}");
    assert_eq!(
        dry.stderr.lines().collect::<Vec<_>>(),
        [
            "would stop the following units: k-behind.service, k-behind.socket, k-by-hand.service, k-changed.service, k-removed.service",
            "would NOT stop the following changed units: k-keep.service",
            "would activate the configuration...",
            "would reload the following units: k-reload.service, k-trigger.service",
            "would restart the following units: k-restart.service",
            "would start the following units: k-behind.socket, k-by-hand.service, k-changed.service",
        ]
    );
    let run = b.run(&new, "test");
    assert_eq!(
        (run.code, run.files.as_str(), run.runs.as_ref()),
        (0, "", Some(&new)),
        "{run:?}"
    );
    assert_eq!(
        said(&run),
        [
            "stopping the following units: k-behind.service, k-behind.socket, k-by-hand.service, k-changed.service, k-removed.service",
            "NOT restarting the following changed units: k-keep.service",
            "reloading the following units: k-reload.service, k-trigger.service",
            "restarting the following units: k-restart.service",
            "starting the following units: k-behind.socket, k-by-hand.service, k-changed.service",
            "the following new units were started: k-new.service",
        ]
    );
    let after = pids();
    let kept: Vec<bool> = before
        .iter()
        .zip(&after)
        .map(|(old, new)| old == new)
        .collect();
    assert_eq!(kept, [false, false, true, true, true, true], "{units:?}");
    for flag in ["/run/k-reload", "/run/k-trigger"] {
        assert_eq!(b.host().ssh(&["test", "-e", flag]).code, 0, "{flag}");
    }
    assert_eq!(b.is("k-removed.service"), "inactive");
    assert_eq!(b.is("k-unwanted.service"), "inactive");
    assert_eq!(b.is("k-behind.socket"), "active");
    assert_eq!(b.is("k-behind.service"), "inactive", "left to its socket");

    let run = b.run(&b.a, "test");
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(b.is("k-removed.service"), "active", "wanted by a target");
    assert_eq!(b.is("k-new.service"), "inactive");
    let lines = b.host().read(&["journalctl", "-t", "nixos", "-o", "cat"]);
    assert!(
        lines.ends_with(&format!(
            "switching to system configuration {0}\nfinished switching to system configuration {0}",
            b.a
        )),
        "{lines}"
    );
}

#[test]
fn the_way_back_leaves_out_what_the_real_one_leaves_out() {
    let Some(b) = Bench::up() else { return };
    let by_hand = "by-hand.service";
    b.host().read(&["systemctl", "start", by_hand]);
    let run = b.run(&b.top("hand-started-removed", &[]), "test");
    assert_eq!(
        (run.code, said(&run)),
        (0, vec!["stopping the following units: by-hand.service"])
    );
    b.back();
    assert_eq!(b.is(by_hand), "inactive");

    b.host().read(&["systemctl", "start", by_hand]);
    assert_eq!(b.run(&b.top("hand-started-fails", &[]), "test").code, 4);
    assert_eq!(b.is(by_hand), "failed");
    let run = b.back();
    assert_eq!(said(&run), Vec::<&str>::new());
    assert_eq!(b.is(by_hand), "inactive", "reset, not started, not named");

    let broken = b.top("sshd-broken", &[]);
    assert_eq!(b.host().sh(&stc(&broken, "test")).code, 4);
    let ssh = b.host().ssh(&["true"]).code;
    assert_eq!(ssh, 255, "nobody can log in");
}

/// Runs a variant in a unit of its own, with the base after it, as nobody can log in in between.
fn there_and_back(b: &Bench, variant: &str, port_in_between: Option<u16>) {
    let top = b.top(variant, &[]);
    // long enough to be seen from outside on a busy machine
    let both = format!(
        "{}; echo $? >/run/there; sleep 13; {}; echo $? >/run/back",
        stc(&top, "test"),
        stc(&b.a, "test")
    );
    b.host()
        .read(&["systemd-run", "--collect", "--unit=both", "sh", "-c", &both]);
    // a connection, not a login: a login that is under way when the cable dies goes on when it is back
    let place = format!("{}:{}", b.host().address, b.host().port);
    let place: std::net::SocketAddr = place.parse().unwrap();
    let refused = || std::net::TcpStream::connect_timeout(&place, Duration::from_secs(1)).is_err();
    wait(SLOW, || refused().then_some(())).unwrap_or_else(|| panic!("{variant}: still there"));
    if let Some(port) = port_in_between {
        wait(Duration::from_secs(8), || {
            (b.host().ssh_port(port, &["true"]).code == 0).then_some(())
        })
        .unwrap_or_else(|| panic!("{variant}: not at {port}"));
    }
    wait(SLOW, || (!refused()).then_some(())).unwrap_or_else(|| panic!("{variant}: never back"));
    let codes = wait(SLOW, || {
        let output = b.host().ssh(&["cat", "/run/there", "/run/back"]);
        (output.code == 0).then_some(output.stdout)
    });
    let there = if variant == "sshd-broken" { 4 } else { 0 };
    assert_eq!(codes, Some(format!("{there}\n0\n")), "{variant}");
    b.host().read(&["rm", "/run/there", "/run/back"]);
}

#[test]
fn closures_that_cut_the_host_off_end_like_good_ones_and_the_base_brings_it_back() {
    let Some(b) = Bench::up() else { return };
    for variant in ["sshd-broken", "sshd-gone", "network-off"] {
        there_and_back(&b, variant, None);
    }
    there_and_back(&b, "sshd-moved", Some(2222));
}

#[test]
fn a_start_that_hangs_holds_the_run_until_its_unit_is_stopped() {
    let Some(b) = Bench::up() else { return };
    let top = b.top("start-hangs", &[]);
    b.host().read(&[
        "systemd-run",
        "--collect",
        "--unit=act",
        &format!("{top}/bin/switch-to-configuration"),
        "test",
    ]);
    wait(SLOW, || {
        (b.is("hangs.service") == "activating").then_some(())
    })
    .expect("it is being started");
    assert_eq!(b.run(&b.a, "test").code, 11, "the lock is held meanwhile");
    b.host().read(&["systemctl", "stop", "act.service"]);
    let files = b.host().read(&["ls", "/run/nixos"]);
    assert_eq!(files, "start-list\nswitch-to-configuration.lock");
    let run = b.back();
    assert_eq!(
        said(&run),
        ["stopping the following units: hangs.service"],
        "nothing had to be cancelled"
    );
}

#[test]
fn a_socket_with_another_address_says_listening_and_is_deaf() {
    let Some(b) = Bench::with("socket", &[]) else {
        return;
    };
    let answers = |port: &str| {
        let line = format!("echo hi | timeout 2 busybox nc 127.0.0.1 {port}");
        b.host().sh(&line).stdout == "hi\n"
    };
    assert!(answers("7001"));
    let moved = b.top("socket", &[("port", "7002")]);
    let run = b.run(&moved, "test");
    assert_eq!((run.code, said(&run)), (0, vec![]), "{run:?}");
    assert_eq!(b.is("echo.socket"), "active");
    assert!(!answers("7002"), "deaf after the switch");
    assert_eq!(b.run(&b.a, "test").code, 0);
    assert!(!answers("7001"), "and still deaf after the way back");
    b.host().read(&["systemctl", "restart", "echo.socket"]);
    assert!(answers("7001"));
}

#[test]
fn list_files_heal_and_wedge() {
    let Some(b) = Bench::up() else { return };
    let plant = |list: &str, unit: &str| {
        b.host()
            .sh(&format!("echo {unit} > /run/nixos/{list}-list"));
    };
    for list in ["start", "restart"] {
        plant(list, "gone.service");
        let dry = b.run(&b.a, "dry-activate");
        assert_eq!(dry.code, 0);
        assert!(
            dry.stderr
                .contains(&format!("would {list} the following units: gone.service\n")),
            "{dry:?}"
        );
        let run = b.run(&b.a, "test");
        assert_eq!((run.code, run.files.as_str()), (4, ""), "{list}: {run:?}");
        assert!(
            run.stderr.contains(&format!(
                "Failed to {list} gone.service: Unit gone.service not found.\n"
            )),
            "{run:?}"
        );
    }
    plant("start", "by-hand.service");
    let run = b.back();
    assert_eq!(
        said(&run),
        [
            "starting the following units: by-hand.service",
            "the following new units were started: by-hand.service"
        ]
    );

    // a name that is not loaded, in reload-list: what was stopped stays down, and again each time
    plant("reload", "gone.service");
    let new = b.top("fails-later", &[("after", "1000")]);
    for _ in 0..2 {
        let run = b.run(&new, "test");
        assert_eq!((run.code, run.runs.as_ref()), (1, Some(&new)), "{run:?}");
        assert!(
            run.stderr
                .contains("Error: Failed to get unit gone.service\n"),
            "{run:?}"
        );
        assert_eq!(run.files, "reload-list start-list");
        assert_eq!(b.is("app.service"), "inactive");
    }
    b.host().read(&["rm", "/run/nixos/reload-list"]);
    assert_eq!(b.run(&new, "test").code, 0);
    assert_eq!(b.is("app.service"), "active");
}

#[test]
fn a_killed_run_leaves_lists_and_an_orphan_that_moves_the_link() {
    let Some(b) = Bench::up() else { return };
    let slow = b.top("activation-hangs", &[("seconds", "8")]);
    let begin = || {
        b.host()
            .read(&["systemd-run", "--collect", "--unit=other", "sleep", "0"]);
        b.host().sh(&format!(
            "(setsid {} >/run/out 2>&1 & echo $! >/run/stc.pid)",
            stc(&slow, "test")
        ));
        wait(SLOW, || {
            b.host()
                .sh("grep -qs '^activating' /run/out")
                .code
                .eq(&0)
                .then_some(())
        })
        .expect("it comes to activate");
    };
    for signal in ["KILL", "TERM", "HUP"] {
        begin();
        b.host().sh(&format!("kill -{signal} $(cat /run/stc.pid)"));
        let lists = b.host().sh("cat /run/nixos/start-list").stdout;
        assert!(lists.contains("app.service\n"), "{signal}: {lists}");
        assert_eq!(
            b.is("app.service"),
            "inactive",
            "{signal}: stopped and down"
        );
        assert_eq!(
            b.host()
                .ssh(&[
                    "flock",
                    "-n",
                    "/run/nixos/switch-to-configuration.lock",
                    "true"
                ])
                .code,
            0,
            "{signal}: the lock is free although activate lives on"
        );
        let run = b.back();
        assert!(
            run.stderr
                .contains("starting the following units: app.service\n"),
            "{signal}: the list heals: {run:?}"
        );
        wait(SLOW, || {
            (b.host().link("/run/current-system").as_ref() == Some(&slow)).then_some(())
        })
        .unwrap_or_else(|| panic!("{signal}: the orphan moves the link"));
        b.back();
    }
    let lines = b.host().read(&["journalctl", "-t", "nixos", "-o", "cat"]);
    let of = |prefix: &str| {
        let wanted = format!("{prefix} to system configuration {slow}");
        lines.lines().filter(|line| *line == wanted).count()
    };
    assert_eq!((of("switching"), of("finished switching")), (3, 0));

    // in a unit of its own, stopped as a group: no orphan
    b.host().read(&[
        "systemd-run",
        "--collect",
        "--unit=act",
        "--property=StandardOutput=file:/run/out2",
        "--property=StandardError=file:/run/out2",
        &format!("{slow}/bin/switch-to-configuration"),
        "test",
    ]);
    wait(SLOW, || {
        b.host()
            .sh("grep -qs '^activating' /run/out2")
            .code
            .eq(&0)
            .then_some(())
    })
    .expect("it comes to activate");
    b.host().read(&["systemctl", "stop", "act.service"]);
    assert_eq!(
        b.host()
            .ssh(&["pgrep", "-f", &format!("{slow}/activate")])
            .code,
        1
    );
    b.back();
}

#[test]
fn a_reader_that_is_gone_ends_it_with_101_and_units_down() {
    let Some(b) = Bench::up() else { return };
    let new = b.top("fails-later", &[("after", "1000")]);
    // reads the first line, then closes
    let line = format!(
        "mkfifo /run/pipe; (head -n 1 </run/pipe >/dev/null) & {} 2>/run/pipe >/dev/null; echo $?",
        stc(&new, "test")
    );
    let run = b.after(b.host().sh(&line));
    assert_eq!(run.stdout, "101\n", "{run:?}");
    assert_eq!(run.runs.as_ref(), Some(&b.a));
    assert_eq!(run.files, "start-list");
    assert_eq!(b.is("app.service"), "inactive");
    b.back();

    let run = b.after(b.host().sh(&format!("{} >&- 2>&-", stc(&new, "test"))));
    assert_eq!((run.code, run.runs.as_ref()), (0, Some(&new)), "{run:?}");
}

#[test]
fn the_older_kind_waits_for_the_lock_and_has_no_check() {
    if std::env::var_os("TRUEUP_STC").is_some() {
        eprintln!("SKIPPED: rows of the older kind are for the stand-in");
        return;
    }
    let Some(b) = Bench::up() else { return };
    let old = b.top("older", &[]);
    assert_eq!(b.run(&old, "check").code, 1);
    let run = b.after(b.host().sh(&format!(
        "flock /run/nixos/switch-to-configuration.lock sleep 2 & sleep 0.2; date +%s%N; {} ; rc=$?; date +%s%N; exit $rc",
        stc(&old, "test")
    )));
    assert_eq!((run.code, run.runs.as_ref()), (0, Some(&old)), "{run:?}");
    let times: Vec<u64> = run.stdout.lines().filter_map(|l| l.parse().ok()).collect();
    assert!(times[1] - times[0] > 1_500_000_000, "it waited: {times:?}");
}
