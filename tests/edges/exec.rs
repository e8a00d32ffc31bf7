//! Programs: limits hold, and nothing is left behind.

use std::time::{Duration, Instant};

use trueup::edge::exec::{self, ExecError, ExecSpec, Line};

use crate::local;

fn sh(script: &str) -> ExecSpec {
    let mut spec = ExecSpec::new("/bin/sh", ["-c", script]);
    spec.env.insert("PATH".to_owned(), "/usr/bin:/bin".into());
    spec
}

#[test]
fn a_program_gets_its_input_and_nothing_of_our_environment() {
    let mut spec = sh("cat; env");
    spec.stdin = b"hello\n".to_vec();
    let exit = local(exec::run(&spec)).unwrap();
    let text = exit.out_text();
    assert!(text.starts_with("hello"), "{text}");
    assert!(!text.contains("HOME=") && !text.contains("CARGO"), "{text}");
}

#[test]
fn a_program_that_hangs_goes_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let mut spec = sh(&format!("sleep 300 & echo $! > {}; wait", pid.display()));
    spec.limits.wall = Duration::from_millis(300);
    let began = Instant::now();
    let e = local(exec::run(&spec)).unwrap_err();
    assert!(matches!(e, ExecError::TimedOut { .. }), "{e}");
    assert!(began.elapsed() < Duration::from_secs(10));
    let child = std::fs::read_to_string(&pid).unwrap();
    let stat = format!("/proc/{}/stat", child.trim());
    // The kill is sent before `run` returns; the process dies when the kernel next schedules it.
    while let Ok(state) = std::fs::read_to_string(&stat) {
        if state.contains(") Z ") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{state}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn output_is_bounded_and_what_was_cut_is_said() {
    let mut spec = sh("head -c 1000000 /dev/zero");
    spec.limits.output = 1000;
    let exit = local(exec::run(&spec)).unwrap();
    assert_eq!(
        (exit.stdout.len(), exit.truncated, exit.ok()),
        (1000, true, true)
    );
}

#[test]
fn lines_come_while_the_program_runs_and_dropping_it_ends_it() {
    local(async {
        let mut running = exec::stream(sh("echo one; echo two >&2; sleep 300")).unwrap();
        let mut seen = [running.next().await.unwrap(), running.next().await.unwrap()];
        seen.sort_by_key(|l| matches!(l, Line::Err(_)));
        assert_eq!(
            seen,
            [Line::Out("one".to_owned()), Line::Err("two".to_owned())]
        );
        drop(running);
        let exit = exec::stream(sh("echo bad >&2; exit 3"))
            .unwrap()
            .finish()
            .await
            .unwrap();
        assert_eq!((exit.code, exit.err_text().as_str()), (Some(3), "bad"));
    });
}

#[test]
fn a_program_over_its_memory_is_ended() {
    let mut spec = sh("x=a; while :; do x=$x$x; done");
    spec.limits.rss = Some(64 << 20);
    let e = local(exec::run(&spec)).unwrap_err();
    assert!(matches!(e, ExecError::TooMuchMemory { .. }), "{e}");
}
