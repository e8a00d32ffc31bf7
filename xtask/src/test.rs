//! `cargo xtask test`: all that must hold before a merge, stage by stage, with times at the end. `.ci/run` calls it.
//! A stage that fails does not stop the others: one run shows everything that is wrong.

use crate::{agent, exec, lab, lab_tests};
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// What building needs beyond Rust: a file that shows it is there, and the package that brings it.
const PACKAGES: [(&str, &str); 4] = [
    ("/usr/bin/cc", "gcc"),
    ("/usr/bin/pkg-config", "pkg-config"),
    ("/usr/include/openssl/ssl.h", "libssl-dev"),
    ("/usr/bin/git", "git"),
];

/// The cargo-deny that CI installs where there is none.
const DENY_VERSION: &str = "0.20.2";

/// The target whose tests take real hosts, in a stage of its own.
pub(crate) const LAB_TARGET: &str = "lab";

/// Tests that passed and failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
    }
}

pub(crate) enum Outcome {
    Passed(Count),
    Failed(Count, String),
    Skipped(String),
}

struct Stage {
    name: &'static str,
    took: Duration,
    outcome: Outcome,
}

pub fn run(args: &[String]) -> Result<ExitCode> {
    let with_lab = match args {
        [] => true,
        [flag] if flag == "--no-lab" => false,
        _ => anyhow::bail!("usage: cargo xtask test [--no-lab]"),
    };
    let stages = vec![
        stage("setup", || setup(with_lab)),
        stage("fmt", || check(&["fmt", "--all", "--check"])),
        stage("clippy", || {
            check(&[
                "clippy",
                "--quiet",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ])
        }),
        stage("deny", deny),
        stage("build", || {
            check(&["test", "--workspace", "--no-run", "--quiet"])
        }),
        stage("test", tests),
        stage("agent", || {
            agent::build()?;
            agent::build_planted()?; // for the lab's tests of its tests
            Ok(Outcome::Passed(Count::default()))
        }),
        stage("sim", crate::sim::stage),
        stage("fuzz", crate::fuzz::stage),
        stage("docs", docs),
        stage("lab", || lab_tests::run(with_lab)),
    ];
    Ok(report(&stages))
}

fn stage(name: &'static str, work: impl FnOnce() -> Result<Outcome>) -> Stage {
    eprintln!("── {name}");
    let began = Instant::now();
    let outcome =
        work().unwrap_or_else(|error| Outcome::Failed(Count::default(), format!("{error:#}")));
    if let Outcome::Failed(_, why) = &outcome {
        eprintln!("{name}: {why}");
    }
    Stage {
        name,
        took: began.elapsed(),
        outcome,
    }
}

/// The table, and as the last line nothing but the sum. A stage without tests of its own that fails counts as one failure.
fn report(stages: &[Stage]) -> ExitCode {
    let mut sum = Count::default();
    println!("\n{:<8} {:>8}  outcome", "stage", "seconds");
    for Stage {
        name,
        took,
        outcome,
    } in stages
    {
        let said = match outcome {
            Outcome::Passed(count) => {
                sum.passed += count.passed;
                if count.passed == 0 {
                    "ok".to_owned()
                } else {
                    format!("ok, {} passed", count.passed)
                }
            }
            Outcome::Failed(count, why) => {
                sum.passed += count.passed;
                sum.failed += count.failed.max(1);
                format!("FAILED: {}", why.lines().next().unwrap_or_default())
            }
            Outcome::Skipped(why) => format!("skipped: {why}"),
        };
        println!("{name:<8} {:>8.1}  {said}", took.as_secs_f64());
    }
    println!("{} passed, {} failed", sum.passed, sum.failed);
    ExitCode::from(u8::from(sum.failed > 0))
}

pub(crate) fn setup(with_lab: bool) -> Result<Outcome> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(file, _)| !std::path::Path::new(file).exists())
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() && exec::has("apt-get") {
        apt(&["update", "-q"])?;
        apt(&[
            &["install", "-qy", "--no-install-recommends"],
            missing.as_slice(),
        ]
        .concat())?;
    }
    if with_lab && lab_possible()? {
        // Prints the base's path, which nobody asked for here.
        exec::read(&mut lab::script(&["base"]))?;
    }
    Ok(Outcome::Passed(Count::default()))
}

fn apt(args: &[&str]) -> Result<()> {
    let sudo = exec::has("sudo");
    let mut command = exec::command(if sudo { "sudo" } else { "env" });
    if sudo {
        command.args(["-n", "env"]);
    }
    exec::run(
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
            .args(args),
    )
}

/// The script says why not, on our stderr. 3 is its "hosts can't run here"; all else is an error.
pub(crate) fn lab_possible() -> Result<bool> {
    let mut script = lab::script(&["check"]);
    let status = script.status().context("start the lab's check")?;
    ensure!(
        status.success() || status.code() == Some(3),
        "the lab's check ended with {status}"
    );
    Ok(status.success())
}

/// A stage without tests of its own that went well.
pub(crate) fn passed() -> Outcome {
    Outcome::Passed(Count::default())
}

fn check(args: &[&str]) -> Result<Outcome> {
    exec::run(exec::cargo().args(args))?;
    Ok(Outcome::Passed(Count::default()))
}

/// A link in a comment that leads nowhere is a wrong comment. `RUSTDOCFLAGS` rebuilds nothing else, as `RUSTFLAGS` would.
fn docs() -> Result<Outcome> {
    exec::run(
        exec::cargo()
            .args(["doc", "--workspace", "--no-deps", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    Ok(Outcome::Passed(Count::default()))
}

/// Licences, bans and sources; advisories where their database can be reached too. CI makes itself a cargo-deny, unoptimized:
/// it is used once, for a second.
fn deny() -> Result<Outcome> {
    let own = match std::env::var_os("HOME") {
        Some(home) => std::path::Path::new(&home).join(".cache/trueup-tools"),
        None => exec::target().join("tools"),
    };
    let program = own.join("bin/cargo-deny");
    let program = if exec::has("cargo-deny") {
        "cargo-deny".into()
    } else if program.exists() {
        program
    } else if in_ci() {
        let version = format!("cargo-deny@{DENY_VERSION}");
        exec::run(
            exec::cargo()
                .args(["install", "--quiet", "--debug", "--locked", &version])
                .arg("--root")
                .arg(&own),
        )?;
        program
    } else {
        return Ok(Outcome::Skipped("cargo-deny is not installed".to_owned()));
    };
    let run = |args: &[&str]| {
        exec::run(
            exec::command(&program)
                .args(["--log-level", "error"])
                .args(args),
        )
    };
    run(&["check", "licenses", "bans", "sources"])?;
    if run(&["fetch", "db"]).is_err() {
        return Ok(Outcome::Skipped(
            "advisories: their database can't be reached (the rest passed)".to_owned(),
        ));
    }
    run(&["check", "advisories"])?;
    Ok(passed())
}

pub(crate) fn in_ci() -> bool {
    std::env::var("CI").as_deref() == Ok("true")
}

/// Everything but the lab. Both ways take the whole workspace, so that features unify as in the build stage and
/// nothing is compiled twice.
fn tests() -> Result<Outcome> {
    if exec::has("cargo-nextest") {
        let not_lab = format!("not (package(trueup-tests) & binary({LAB_TARGET}))");
        let mut command = exec::cargo();
        command.args([
            "nextest",
            "run",
            "--workspace",
            "--no-fail-fast",
            "-E",
            &not_lab,
        ]);
        return counted(command.envs(tools()?));
    }
    let mut command = exec::cargo();
    command.args(["test", "--workspace", "--no-fail-fast", "--lib", "--bins"]);
    for name in test_targets()?.iter().filter(|name| *name != LAB_TARGET) {
        command.args(["--test", name]);
    }
    counted(command.envs(tools()?))
}

/// For tests against the real Nix on a machine that has none: the lab's, where its base has been made.
fn tools() -> Result<Vec<(String, String)>> {
    let text = exec::read(&mut lab::script(&["env", "-o", "json"]))?;
    let env: serde_json::Value = serde_json::from_str(&text).context("read the lab's env")?;
    Ok(["TRUEUP_LAB_NIX", "TRUEUP_LAB_BUSYBOX"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), env[name].as_str()?.to_owned())))
        .filter(|(_, path)| std::path::Path::new(path).exists())
        .collect())
}

/// One outcome of many.
pub(crate) fn all(outcomes: Vec<Result<Outcome>>) -> Result<Outcome> {
    let (mut sum, mut why) = (Count::default(), None);
    for outcome in outcomes {
        let count = match outcome? {
            Outcome::Passed(count) => count,
            Outcome::Failed(count, said) => {
                why = Some(said);
                count
            }
            Outcome::Skipped(_) => Count::default(),
        };
        sum += count;
    }
    Ok(match why {
        None => Outcome::Passed(sum),
        Some(_) if sum.failed > 0 => Outcome::Failed(sum, format!("{} tests failed", sum.failed)),
        Some(why) => Outcome::Failed(sum, why),
    })
}

fn test_targets() -> Result<Vec<String>> {
    let text = exec::read(exec::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("read cargo metadata")?;
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    Ok(list(&metadata["packages"])
        .iter()
        .flat_map(|package| list(&package["targets"]))
        .filter(|target| target["kind"][0] == "test")
        .filter_map(|target| target["name"].as_str().map(str::to_owned))
        .collect())
}

/// Runs a test command, passes on what it says, and adds up the summaries in it.
pub(crate) fn counted(command: &mut Command) -> Result<Outcome> {
    Ok(counted_names(command)?.0)
}

/// The same, with the names of those that failed, as libtest prints them.
pub(crate) fn counted_names(command: &mut Command) -> Result<(Outcome, Vec<String>)> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", exec::shown(command)))?;
    let err = child
        .stderr
        .take()
        .map(|pipe| std::thread::spawn(move || tee(pipe, std::io::stderr())));
    let (mut count, failed) = child
        .stdout
        .take()
        .map(|pipe| tee(pipe, std::io::stdout()))
        .unwrap_or_default();
    if let Some(Ok((more, _))) = err.map(std::thread::JoinHandle::join) {
        count += more;
    }
    let status = child
        .wait()
        .with_context(|| format!("wait for {}", exec::shown(command)))?;
    let outcome = if status.success() && count.failed == 0 {
        Outcome::Passed(count)
    } else {
        Outcome::Failed(count, format!("{} tests failed ({status})", count.failed))
    };
    Ok((outcome, failed))
}

fn tee(from: impl Read, mut to: impl Write) -> (Count, Vec<String>) {
    let (mut count, mut failed) = (Count::default(), Vec::new());
    for line in BufReader::new(from)
        .split(b'\n')
        .map_while(std::io::Result::ok)
    {
        let line = String::from_utf8_lossy(&line);
        // A closed terminal must not stop the counting.
        let _ = writeln!(to, "{line}");
        if let Some(more) = summary(&line) {
            count += more;
        }
        failed.extend(failure(&line).map(str::to_owned));
    }
    (count, failed)
}

/// `test a::b ... FAILED`.
fn failure(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// `test result: ok. 3 passed; 0 failed; …` of libtest, or `Summary [ 0.1s] 4 tests run: 3 passed, 1 failed, …` of nextest,
/// which calls a test that ran into its limit "timed out".
fn summary(line: &str) -> Option<Count> {
    let rest = match line.strip_prefix("test result: ") {
        Some(rest) => rest.split_once(". ")?.1,
        None => {
            line.trim_start()
                .strip_prefix("Summary [")?
                .split_once("run: ")?
                .1
        }
    };
    // `3 passed (1 slow)`: the number is the part's first word
    let number = |word: &str| {
        rest.split([',', ';'])
            .map(str::trim)
            .find(|part| part.contains(word))
            .and_then(|part| part.split(' ').next()?.parse().ok())
            .unwrap_or(0u64)
    };
    Some(Count {
        passed: number(" passed"),
        failed: number(" failed") + number(" timed out"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_added_up() {
        let count = |passed, failed| Count { passed, failed };
        let good = || Ok(Outcome::Passed(count(2, 0)));
        let bad = Ok(Outcome::Failed(count(1, 1), "1 tests failed".to_owned()));
        assert!(matches!(
            all(vec![good(), good()]),
            Ok(Outcome::Passed(c)) if c == count(4, 0)
        ));
        assert!(matches!(
            all(vec![good(), bad]),
            Ok(Outcome::Failed(c, _)) if c == count(3, 1)
        ));
    }

    #[test]
    fn summaries_of_both_runners_are_counted() {
        let count = |passed, failed| Some(Count { passed, failed });
        assert_eq!(
            summary("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out"),
            count(3, 0)
        );
        assert_eq!(
            summary("test result: FAILED. 2 passed; 5 failed; 0 ignored"),
            count(2, 5)
        );
        assert_eq!(
            summary("     Summary [   0.012s] 4 tests run: 4 passed, 2 skipped"),
            count(4, 0)
        );
        assert_eq!(
            summary(
                "     Summary [   9.012s] 4 tests run: 2 passed (1 slow), 1 failed, 1 timed out, 0 skipped"
            ),
            count(2, 2)
        );
        assert_eq!(summary("test web ... ok"), None);
        assert_eq!(failure("test web ... ok"), None);
        assert_eq!(failure("test a::b ... FAILED"), Some("a::b"));
    }
}
