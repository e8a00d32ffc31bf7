//! The power goes in the middle of the first delivery of secrets: while the set is written, and when it holds but nobody has
//! confirmed it. Judged by what the host has after its boot, with nobody there to send anything.

use std::fmt::Write as _;

use super::*;

const WEB_1: &str = "web-1";
/// Enough to write for some milliseconds, so that it can be stopped in between.
const COUNT: usize = 900;
/// What each value begins with.
const PLANTED: &str = "planted-8c1f-of-a-set-cut-short";
/// A link on the disk to one of them.
const LINK: &str = "/var/lib/planted/token";
/// The first set of a boot, and the last thing that is written of it.
const SET: &str = "/run/trueup/secrets.d/1";
const RECORD: &str = "/run/trueup/secrets.d/1/.trueup.json";
const HOLDS: &str = "/run/trueup/secrets";
/// The agent stands still.
const STOPPED: &str = "/run/agent-stands-still";
/// The ciphertext that a boot brings back, written at the commit.
const KEPT: &str = "/nix/var/trueup/secrets.json";
/// A set may be whole before anybody has looked: then the power goes all the same, and it is tried again.
const TRIES: usize = 10;

fn name(number: usize) -> String {
    format!("s{number:04}")
}

fn manifests() -> String {
    let mut all = String::new();
    for number in 0..COUNT {
        let path = if number == 0 {
            format!("  path: {LINK}\n")
        } else {
            String::new()
        };
        let name = name(number);
        write!(
            all,
            "---\napiVersion: trueup/v1alpha1\nkind: Secret\nmetadata: {{name: {name}}}\nspec:\n  source: secrets/web.yaml\n  key: web/{name}\n  hosts: role=web\n{path}"
        )
        .unwrap();
    }
    all
}

/// Watches for a file without a pause, and then stops the agent, and only the agent, where it is. The time that finding
/// it takes would be enough to be late, so everything is stopped first.
fn arm(host: &Host, file: &str) {
    let script = format!(
        r#"
        rm -f {STOPPED}
        until [ -e {file} ]; do :; done
        kill -STOP -1
        for p in /proc/[0-9]*; do
          read -r name <$p/comm || continue
          [ "$name" = trueup-agent ] || kill -CONT ${{p#/proc/}}
        done 2>/dev/null
        : >{STOPPED}
        "#
    );
    let most = "--property=RuntimeMaxSec=170";
    let as_it_is = "--expand-environment=no";
    host.read(&[
        "systemd-run",
        "--quiet",
        "--collect",
        most,
        as_it_is,
        "bash",
        "-c",
        &script,
    ]);
}

fn is_there(host: &Host, path: &str) -> bool {
    host.ssh(&["test", "-e", path]).code == 0
}

/// Secrets in a folder.
fn count(host: &Host, folder: &str) -> usize {
    let out = host.sh(&format!(
        "ls {folder}/ 2>/dev/null | grep -c '^s[0-9]'; true"
    ));
    out.stdout.trim().parse().unwrap()
}

/// A merge of the same values under another data key.
fn sealed_anew(world: &mut World) {
    let values = (0..COUNT).map(name);
    let values = values.map(|name| format!("    {name}: {PLANTED}-{name}\n"));
    let plain = format!("web:\n{}", values.collect::<String>());
    put(world, &seal_text(world, &plain, &[WEB_1]));
    world.commit("nine hundred secrets", &[]).unwrap();
}

/// A delivery until `file` is there; then the agent stands still. Judged by `look`; then the power goes, and with it the
/// controller, so that nobody helps.
fn cut_at<T>(world: &mut World, file: &str, look: impl Fn(&Host) -> T) -> T {
    let host = world.host(WEB_1).clone();
    arm(&host, file);
    world.start_and_wait().unwrap();
    let stopped = wait(ARRIVES_MAX, || is_there(&host, STOPPED).then_some(()));
    assert!(stopped.is_some(), "{file} never came: {}", world.log_tail());
    let seen = look(&host);
    world.kill();
    let boot = host.boot_id();
    host.crash();
    host.wait_other_boot(&boot);
    // What the early units do; here they may have been there already.
    host.read(&[AGENT, "secrets", "restore"]);
    host.read(&[AGENT, "resume"]);
    assert_eq!(on_disk(&host, &[PLANTED]), "");
    seen
}

/// Neither a set nor a link to one.
fn nothing_is_visible(host: &Host) {
    for path in [HOLDS, "/run/trueup/secrets-for-users", LINK] {
        let out = host.ssh(&["ls", "-ld", path]);
        assert_ne!(out.code, 0, "{out:?}");
    }
    assert_eq!(count(host, "/run/trueup/secrets.d/*"), 0);
    assert_eq!(in_memory(host, &[PLANTED]), "");
}

#[test]
fn a_power_cut_in_the_first_delivery_leaves_nothing_half_and_the_next_one_succeeds() {
    let Some(mut world) = world(&[WEB_1]) else {
        return;
    };
    world.commit("as it begins", &[]).unwrap();
    world.start_and_wait().unwrap();
    world.all_ready(&[WEB_1]).unwrap();
    world.stop().unwrap();

    // It holds, and nobody has confirmed it.
    declare(&world, &manifests());
    sealed_anew(&mut world);
    cut_at(&mut world, LINK, |host| {
        assert_eq!(count(host, HOLDS), COUNT);
        assert_ne!(in_memory(host, &[PLANTED]), "", "the search finds it");
        assert!(!is_there(host, KEPT));
    });
    nothing_is_visible(world.host(WEB_1));

    // While it is written. A goal is tried three times, and this is none of its faults: each time another one.
    let half = (0..TRIES).find_map(|_| {
        sealed_anew(&mut world);
        let (half, whole) = cut_at(&mut world, SET, |host| {
            assert!(!is_there(host, KEPT));
            (count(host, SET), is_there(host, RECORD))
        });
        nothing_is_visible(world.host(WEB_1));
        println!("cut with {half} of {COUNT} written, whole: {whole}");
        (half < COUNT && !whole).then_some(half)
    });
    assert!(half.is_some(), "never stopped in the middle");

    // Nobody does anything, and it arrives.
    world.start_and_wait().unwrap();
    world.all_ready(&[WEB_1]).unwrap();
    let host = world.host(WEB_1);
    for number in [0, COUNT - 1] {
        let name = name(number);
        let value = host.read(&["cat", &format!("{HOLDS}/{name}")]);
        assert_eq!(value, format!("{PLANTED}-{name}"));
    }
    assert_eq!(host.read(&["cat", LINK]), format!("{PLANTED}-{}", name(0)));
    assert_eq!(count(host, HOLDS), COUNT);
    let sets = host.sh("ls /run/trueup/secrets.d | wc -l").stdout;
    assert_eq!(sets.trim(), "1");
    assert_eq!(on_disk(host, &[PLANTED]), "");
}
