//! The command line against a real controller whose hosts don't answer: what a person reads word for word (golden files
//! in `cli/`, `TRUEUP_ACCEPT=1` writes them anew), and the exit codes that scripts rely on. No lab, and in place of Nix a
//! script that knows these three hosts: what is said is the subject here, and `edges` has the real one.

mod alone;
mod byhand;
mod place;
mod plan;
mod readers;
mod secrets;

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use trueup_fixtures::fleet;

use place::{HOSTS, Place, Said, TRUEUP, golden, said, said_by};

#[test]
fn what_a_person_reads_of_a_fleet_that_does_not_answer() {
    let place = Place::running();
    place.golden(
        "fleet.txt",
        &[
            &["get", "hosts"],
            &["get", "hosts", "-o", "name"],
            &["get", "hosts", "-l", "role=db"],
            &["get", "hosts", "-l", "role=cache"],
            &["get", "hosts", "--drifted"],
            &["get", "host", "web-9"],
            &["get", "revisions"],
            &["get", "builds"],
            &["describe", "host/db-1"],
            &["describe", "host/db1"],
            &["describe", "secret/db-1"],
            &["events", "--kind", "HostA"],
            &["events", "db-1", "--kind", "RevisionA"],
            &["source"],
            &["logs", "build", "00bgd045z0d4icpbc2yyz4gx48ak44la"],
            &["logs", "build", "../../etc/passwd"],
            &["adopt", "web-1"],
        ],
    );
}

#[test]
fn what_is_not_known_to_be_the_same_is_a_difference() {
    let place = Place::running();
    let said = place.ask(&["diff"]);
    assert_eq!(said.code, 3, "{said:?}");
    for host in HOSTS {
        let row = said.out.lines().find(|l| l.starts_with(host)).unwrap();
        assert!(
            row.contains("unknown") && row.contains("it has not answered yet"),
            "{row}"
        );
    }
    let said = place.ask(&["diff", "web-1", "-o", "name"]);
    assert_eq!((said.code, said.out.as_str()), (3, "host/web-1\n"));
    assert!(
        place
            .ask(&["diff", "web-9"])
            .err
            .contains("did you mean host/web-1?")
    );
    // Outside a repository a plan is the controller's, and a difference is no failure of it.
    let said = place.ask(&["plan", "db-1"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.out.contains("db-1") && !said.out.contains("web-1"),
        "{said:?}"
    );
    assert_eq!(place.ask(&["plan", "db-1", "--detailed-exitcode"]).code, 3);
}

#[test]
fn a_suspended_host_is_left_alone_and_says_by_whom_and_why() {
    let place = Place::running();
    let first = place.transcript(&[
        &[
            "suspend",
            "host/db-1",
            "--reason",
            "moving disks",
            "--for",
            "2h",
        ],
        &["reconcile", "--host", "db-1"],
        &["reconcile", "db-1", "web-1", "--wait"],
    ]);
    // The person's event, and the host's own.
    let events = |p: &Place, kind| {
        let said = p.ask(&["events", "db-1", "--kind", kind, "-o", "name"]);
        said.out.lines().count()
    };
    place.until("it rests", |p| events(p, "Suspended") == 2);
    let page = place.ask(&["describe", "host/db-1"]).out;
    assert!(
        page.contains("Suspended=True") && page.contains("until"),
        "{page}"
    );
    assert_eq!(
        page.matches("moving disks").count(),
        4,
        "condition, line, two events: {page}"
    );
    let second = place.transcript(&[
        &["events", "--kind", "Suspended"],
        &["resume", "host/db-1"],
        &["resume", "host/db-1"],
        &["suspend", "host/db-9", "--reason", "x"],
        &["suspend", "host/db-1", "--reason", " "],
        &["suspend", "host/db-1"],
    ]);
    place.until("it goes on", |p| events(p, "Resumed") == 2);
    let third = place.transcript(&[&["events", "--kind", "Resumed"]]);
    golden("suspend.txt", &[first, second, third].concat());
}

#[test]
fn a_suspension_in_git_is_not_lifted_by_the_command() {
    let place = Place::running();
    let file = place.path("fleet/fleet/hosts.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replacen("spec:\n", "spec:\n  suspend: true\n", 1);
    std::fs::write(&file, text).unwrap();
    fleet::commit_all(&place.path("fleet"), "web-1 rests").unwrap();
    place.until("web-1 is suspended", |p| {
        p.ask(&["get", "hosts", "web-1"]).out.contains("Suspended")
    });
    place.golden(
        "suspend-git.txt",
        &[
            &["reconcile", "web-1"],
            &["suspend", "host/web-1", "--reason", "by hand"],
            &["resume", "host/web-1"],
            &["resume", "host/web-1"],
        ],
    );
}

#[test]
fn reconcile_waits_until_each_host_is_decided_or_time_is_up() {
    let place = Place::running();
    let said = place.ask(&["reconcile", "web-1"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.starts_with("web-1: asked, as nudge "), "{said:?}");

    // It is unreachable: no waiting decides that, and the command says so instead of 0.
    let said = place.ask(&["reconcile", "web-1", "--wait", "--timeout", "50s"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.out.starts_with("web-1  Unreachable  "), "{said:?}");
    assert!(
        said.out.contains("(trueup describe host/web-1)"),
        "{said:?}"
    );
    assert!(said.err.contains("web-1  Unreachable"), "{said:?}");

    // A merge whose evaluation takes longer than anybody waits.
    std::fs::write(place.path("slow"), "").unwrap();
    fleet::set_host(&place.path("fleet"), "web-1", "base", &[]).unwrap();
    fleet::commit_all(&place.path("fleet"), "slow").unwrap();
    place.until("web-1 is being evaluated", |p| {
        p.ask(&["get", "hosts", "web-1"]).out.contains("Evaluating")
    });
    let said = place.ask(&["reconcile", "--wait", "--timeout", "1s"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.out.contains("web-1  Evaluating"), "{said:?}");
    assert!(
        said.err
            .contains("the work goes on: trueup get hosts --watch"),
        "{said:?}"
    );
}

#[test]
fn documents_are_what_the_openapi_says_they_are() {
    let place = Place::running();
    let api: Value = serde_json::from_str(&place.ask(&["schema", "api"]).out).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let text = format!("{api:#}\n");
    assert!(
        trueup_tests::golden::difference(&file, &text).is_none(),
        "docs/openapi.json is stale: TRUEUP_ACCEPT=1 writes it anew"
    );

    for (path, args) in [
        ("/v1/hosts", &["get", "hosts"][..]),
        ("/v1/hosts/{name}", &["get", "hosts", "web-1"]),
        ("/v1/hosts/{name}/describe", &["describe", "host/web-1"]),
        ("/v1/revisions", &["get", "revisions"]),
        ("/v1/builds", &["get", "builds"]),
        ("/v1/events", &["events"]),
        ("/v1/source", &["source"]),
        ("/v1/plan", &["diff"]),
    ] {
        let mut schema =
            api["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
                .clone();
        assert!(schema.is_object(), "{path}");
        schema["components"] = api["components"].clone();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let said = place.ask(&[args, &["-o", "json"]].concat());
        let document: Value = serde_json::from_str(&said.out).unwrap();
        let wrong: Vec<String> = validator
            .iter_errors(&document)
            .map(|e| e.to_string())
            .collect();
        assert!(wrong.is_empty(), "{path}: {wrong:?}\n{}", said.out);

        let yaml = place.ask(&[args, &["-o", "yaml"]].concat()).out;
        assert!(
            yaml.starts_with("apiVersion: ") || yaml.starts_with("host:\n"),
            "{yaml}"
        );
        assert!(
            !yaml.contains('\x1b') && !said.out.contains('\x1b'),
            "colour in a pipe"
        );
    }
    let list: Value =
        serde_json::from_str(&place.ask(&["get", "hosts", "-o", "json"]).out).unwrap();
    assert_eq!(list["kind"], "List");
    let host = &list["items"][0];
    assert_eq!(
        (&host["kind"], &host["metadata"]["name"]),
        (&"Host".into(), &"db-1".into())
    );
    assert_eq!(host["metadata"]["labels"]["role"], "db");
    for field in [
        "phase",
        "outcome",
        "desiredRevision",
        "observedRevision",
        "desiredClosure",
        "runningClosure",
        "bootedClosure",
        "bootDefaultClosure",
        "components",
        "conditions",
        "lastReportTime",
    ] {
        assert!(
            host["status"].get(field).is_some(),
            "status.{field} is missing: {host:#}"
        );
    }
}

#[test]
fn a_watch_prints_what_changes_and_ends_on_ctrl_c() {
    let place = Place::running();
    let file = std::fs::File::create(place.path("watch.out")).unwrap();
    let mut watch = place
        .command(&["get", "hosts", "--watch"])
        .stdout(file)
        .spawn()
        .unwrap();
    let shown = |p: &Place| std::fs::read_to_string(p.path("watch.out")).unwrap();
    place.until("the table", |p| shown(p).contains("web-2"));
    assert_eq!(place.ask(&["suspend", "web-2", "--reason", "r"]).code, 0);
    place.until("the change, as a row of its own", |p| {
        shown(p)
            .lines()
            .any(|l| l.starts_with("web-2") && l.contains("Suspended"))
    });
    let rows: Vec<String> = shown(&place).lines().map(str::to_owned).collect();
    assert_eq!(
        rows.iter().filter(|l| l.starts_with("NAME")).count(),
        1,
        "{rows:#?}"
    );
    assert_eq!(watch.try_wait().unwrap(), None);
    said_by("kill", &["-INT", &watch.id().to_string()]);
    let ended = watch.wait().unwrap();
    assert!(!ended.success() && ended.code().is_none(), "{ended}");
}

#[test]
fn colour_and_wrapping_are_for_terminals() {
    let place = Place::running();
    let plain = place.ask(&["get", "hosts"]).out;
    assert!(!plain.contains('\x1b'), "{plain}");
    if said_by("sh", &["-c", "command -v script || true"]).is_empty() {
        eprintln!("SKIPPED: no `script` (util-linux), so no terminal");
        return;
    }
    let on_a_terminal = |environment: &str| {
        let mut command = place.command(&[]);
        let run = format!("stty cols 60; {environment} {TRUEUP} get hosts -o wide");
        command = {
            let mut script = on(&command, "script");
            script
                .args(["-qec", &run, "/dev/null"])
                .env("TERM", "xterm");
            script
        };
        said(command).out
    };
    assert!(
        on_a_terminal("").contains("\x1b[1mNAME"),
        "{}",
        on_a_terminal("")
    );
    assert!(!on_a_terminal("NO_COLOR=1").contains("\x1b["));
    assert!(!on_a_terminal("TERM=dumb").contains("\x1b["));
}

/// Another program in the same environment.
#[allow(clippy::disallowed_methods, reason = "a test needs a terminal")]
fn on(like: &Command, program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, value) in like.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::null());
    command
}

#[test]
fn the_database_is_checked_copied_and_printed_beside_a_running_controller() {
    let place = Place::running();
    let state = place.path("state").display().to_string();
    let said = place.ask(&["db", "check", "--state-dir", &state]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.out.contains("entries, all whole; revision "),
        "{said:?}"
    );
    let copy = place.path("copy.db").display().to_string();
    assert_eq!(
        place
            .ask(&["db", "backup", &copy, "--config", "trueup.yaml"])
            .code,
        0
    );
    assert!(place.path("copy.db").metadata().unwrap().len() > 0);
    let said = place.ask(&["db", "export", "--state-dir", &state]);
    let keys: Vec<String> = said
        .out
        .lines()
        .map(|l| {
            serde_json::from_str::<Value>(l).unwrap()["key"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    for host in HOSTS {
        assert!(keys.contains(&format!("/hosts/{host}")), "{keys:?}");
    }
    // A second copy is not laid over the first, and a folder without a database is a wrong call.
    assert_eq!(
        place
            .ask(&["db", "backup", &copy, "--state-dir", &state])
            .code,
        1
    );
    assert_eq!(
        place
            .ask(&["db", "check", "--state-dir", "/nonexistent"])
            .code,
        2
    );
}

#[test]
fn a_person_is_named_by_the_kernel_not_by_themselves() {
    let place = Place::running();
    assert_eq!(
        place.ask(&["reconcile", "db-1", "--reason", "a test"]).code,
        0
    );
    let said = place.ask(&["events", "db-1", "--kind", "NudgeRequested", "-o", "json"]);
    let list: Value = serde_json::from_str(&said.out).unwrap();
    let by = &list["items"][0]["status"]["by"];
    assert_eq!(by["uid"].to_string(), said_by("id", &["-u"]).trim());
    assert_eq!(by["kind"], "person");
    assert_eq!(by["from"], "socket");
}

#[test]
fn a_key_is_rotated_in_steps_that_outlive_the_controller() {
    let mut place = Place::running();
    let first = place.transcript(&[
        &["keys", "status"],
        &["keys", "rotate", "intent"],
        &["keys", "rotate", "intent"],
    ]);
    let keys = |place: &Place| -> Value {
        serde_json::from_str(&place.ask(&["keys", "status", "-o", "json"]).out).unwrap()
    };
    let before = keys(&place);
    assert!(before["intent"]["next"].is_string(), "{before:#}");
    place.restart();
    assert_eq!(
        keys(&place)["intent"],
        before["intent"],
        "a crash forgets no step"
    );
    let second = place.transcript(&[
        &["keys", "rotate", "intent", "--finish"],
        &["keys", "rotate", "intent", "--finish", "--force"],
        &["keys", "rotate", "store"],
        &["keys", "rotate", "store", "--finish"],
        &["keys", "status"],
        &["keys", "rotate", "store", "--finish", "--force"],
        &["keys", "rotate", "store", "--finish"],
        &["events", "--kind", "Keys"],
    ]);
    let after = keys(&place);
    assert_eq!(after["intent"]["current"], before["intent"]["next"]);
    assert!(
        after["store"]["current"]
            .as_str()
            .unwrap()
            .starts_with("trueup-2:")
    );
    golden("keys.txt", &[first, second].concat());
}

/// A controller that says this of its hosts and nothing else.
fn says_of_hosts(place: &Place, document: Value) -> std::thread::JoinHandle<()> {
    use std::io::{Read as _, Write as _};
    let socket = std::os::unix::net::UnixListener::bind(place.path("api.sock")).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = socket.accept().unwrap();
        let mut asked = [0; 4096];
        let n = stream.read(&mut asked).unwrap();
        assert!(
            asked[..n].starts_with(b"GET /v1/hosts "),
            "{:?}",
            String::from_utf8_lossy(&asked[..n])
        );
        let body = document.to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
    })
}

#[test]
fn hosts_that_drifted_are_a_difference() {
    let host = |name: &str, drifted: bool| {
        let drift = serde_json::json!({"type": "Drifted", "status": "True", "reason": "Drifted", "message": "runs a, should run b",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedRevision": null});
        serde_json::json!({"apiVersion": "trueup/v1alpha1", "kind": "Host", "metadata": {"name": name}, "spec": {}, "status": {
            "phase": "Stalled", "detail": null, "outcome": null, "desiredRevision": null, "attemptedRevision": null,
            "appliedRevision": null, "observedRevision": null, "desiredClosure": null, "runningClosure": null,
            "bootedClosure": null, "bootDefaultClosure": null, "components": [],
            "conditions": if drifted { vec![drift] } else { vec![] }, "lastReportTime": null, "nextAt": null}})
    };
    for (drifted, code, lines) in [(true, 3, "host/web-1\n"), (false, 0, "")] {
        let place = Place::new();
        let list = serde_json::json!({"apiVersion": "trueup/v1alpha1", "kind": "List", "metadata": {"dbRevision": 1},
            "items": [host("web-1", drifted), host("web-2", false)]});
        let server = says_of_hosts(&place, list);
        let said = place.ask(&["get", "hosts", "--drifted", "-o", "name"]);
        assert_eq!((said.code, said.out.as_str()), (code, lines), "{said:?}");
        server.join().unwrap();
    }
}

/// As kubectl: whoever ends a watch by Ctrl-C has ended the program, which a shell shows as 130.
#[test]
fn a_watch_ends_by_ctrl_c_and_as_such() {
    use std::os::unix::process::ExitStatusExt as _;
    let place = Place::running();
    let mut command = place.command(&["get", "hosts", "--watch"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut first).unwrap();
    assert!(first.starts_with("NAME"), "{first}");
    let killed = said_by("kill", &["-INT", &child.id().to_string()]);
    assert_eq!(killed, "");
    let status = child.wait().unwrap();
    assert_eq!((status.signal(), status.code()), (Some(2), None));
}
