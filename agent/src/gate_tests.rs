use super::*;

const AGENT: &str = "/nix/store/0c0z3xv4l5hkqv5s9dqyv4m6y0a1b2c3-trueup-agent/bin/trueup-agent";
const PATH: &str = "/nix/store/1c0z3xv4l5hkqv5s9dqyv4m6y0a1b2c3-closure";

fn agent(rest: &str) -> String {
    format!("{AGENT} {rest}")
}

fn refused(command: &str) -> Refused {
    match parse(command) {
        Ok(run) => panic!("{command:?} is taken: {run:?}"),
        Err(why) => why,
    }
}

#[test]
fn what_the_controller_says_is_taken_word_for_word() {
    for rest in [
        "report",
        "version -o json",
        "offer --follow",
        "confirm --order 1-7 --nonce 0a1b",
        "watch",
        "keys",
        "leave",
        "witness",
        &format!("want {PATH} {PATH}"),
        &format!("want --stay {PATH}"),
    ] {
        let words: Vec<String> = rest.split(' ').map(str::to_owned).collect();
        let run = |as_root| Run::Verb {
            args: words.clone(),
            as_root,
        };
        assert_eq!(parse(&agent(rest)), Ok(run(false)), "{rest}");
        let sudo = format!("sudo -n -- {}", agent(rest));
        assert_eq!(parse(&sudo), Ok(run(true)), "{rest}");
    }
    assert_eq!(parse("true"), Ok(Run::Nothing));
    for tool in [
        "nix-daemon --stdio",
        "'nix-daemon' '--stdio'",
        "nix-daemon --option connect-timeout 3 --option fallback true --stdio",
        "nix-store --serve",
        "nix-store --serve --write",
        "df -Pk /nix/store /boot /boot/efi",
    ] {
        let words = tool
            .replace('\'', "")
            .split(' ')
            .map(str::to_owned)
            .collect();
        assert_eq!(parse(tool), Ok(Run::Tool(words)), "{tool}");
    }
}

#[test]
fn a_witness_says_two_things_and_no_third() {
    let signature = "A".repeat(86) + "==";
    for good in [
        "challenge --order 1-7".to_owned(),
        format!("testify --order 1-7 --nonce 0a1b --signature {signature}"),
    ] {
        let args = good.split(' ').map(str::to_owned).collect();
        let as_root = true;
        assert_eq!(parse_witness(&good), Ok(Run::Verb { args, as_root }));
        assert!(
            parse(&good).is_err(),
            "the controller's key does not say it"
        );
    }
    for bad in [
        "challenge",
        "challenge --order x",
        "challenge --order 1-7 --order 1-8",
        "testify --order 1-7 --nonce 0a1b",
        "testify --order 1-7 --nonce 0a1b --signature short",
        &format!("testify --order 1-7 --nonce -x --signature {signature}"),
    ] {
        let got = parse_witness(bad);
        assert!(matches!(got, Err(Refused::Arguments(_))), "{bad}: {got:?}");
    }
    for other in [
        "report",
        "offer",
        "confirm --order 1-7 --nonce 0a",
        "sh",
        "true",
        AGENT,
    ] {
        let got = parse_witness(other);
        assert!(matches!(got, Err(Refused::Verb(_))), "{other}: {got:?}");
    }
    assert_eq!(parse_witness(""), Err(Refused::Shell));
    assert!(parse_witness("challenge;id").is_err());
}

#[test]
fn other_programs_are_refused_by_name() {
    assert_eq!(refused(""), Refused::Shell);
    for command in [
        "sh",
        "bash -l",
        "scp -t /root",
        "internal-sftp",
        "/usr/lib/openssh/sftp-server",
        "rsync --server",
        "sudo -n -- sh",
        "sudo -n --",
        "sudo -n -- nix-daemon --stdio",
        "sudo id",
        "/tmp/bin/trueup-agent report",
        "/nix/store/../../tmp/x/bin/trueup-agent report",
        "trueup-agent report",
        "df -Pk /",
        "ln -sfn /nix/store /nix/var/nix/gcroots/trueup/agent",
    ] {
        assert!(matches!(refused(command), Refused::Program(_)), "{command}");
    }
}

#[test]
fn verbs_and_arguments_that_the_controller_never_says_are_refused() {
    for name in [
        "hold",
        "release",
        "activate",
        "deadman",
        "secrets",
        "resume",
        "ssh-command",
        "authorized-key",
        "witnessing",
        "challenge",
        "testify",
        "ssh-witness",
        "--",
        "-h",
    ] {
        assert_eq!(refused(&agent(name)), Refused::Verb(name.to_owned()));
    }
    assert_eq!(refused(AGENT), Refused::Verb(String::new()));
    for rest in [
        "report --",
        "report now",
        "want",
        "want /etc/passwd",
        "want --help",
        "want --stay",
        "want --stay --stay",
        "want /nix/store/../../etc/passwd",
        "offer --follow --follow",
        "offer -- x",
        "confirm",
        "confirm --order 1-7",
        "confirm --order 1-7 --nonce ../../x",
        "confirm --order x --nonce 0a",
        "confirm --nonce 0a --order 1-7",
        "version -o yaml",
    ] {
        let verb = rest.split(' ').next().unwrap_or_default();
        assert_eq!(
            refused(&agent(rest)),
            Refused::Arguments(verb.to_owned()),
            "{rest}"
        );
    }
    for nix in [
        "nix-daemon",
        "nix-daemon --stdio --option connect-timeout 3",
        "nix-daemon --option build-hook /tmp/x --stdio",
        "nix-daemon --option connect-timeout /tmp/x --stdio",
        "nix-daemon --store /tmp --stdio",
        "nix-store --serve --write --repair",
        "nix-store --dump /etc",
        "nix-store --delete --serve",
    ] {
        assert!(matches!(refused(nix), Refused::Arguments(_)), "{nix}");
    }
}

#[test]
fn what_a_shell_would_read_is_in_no_word() {
    for crafted in [
        "report\nid",
        "report;id",
        "report ; id",
        "report$(id)",
        "report `id`",
        "report|id",
        "report&",
        "report>x",
        "report\tx",
        "report \"x\"",
        "report \\x",
        "report *",
        "report ~",
        "report\0",
        "report  x",
        " report",
        "report ",
        "report 'a' 'b c'",
        "report {a,b}",
        "report %20",
        "réport",
    ] {
        assert!(
            matches!(refused(&agent(crafted)), Refused::Alphabet(_)),
            "{crafted:?}"
        );
    }
    let long = agent(&"want ".repeat(MAX_COMMAND));
    assert_eq!(refused(&long), Refused::TooLong);
    assert_eq!(
        refused(&agent(&["report"; MAX_WORDS + 1].join(" "))),
        Refused::TooLong
    );
}

/// Whatever is asked for: no panic, and nothing outside the list is run.
#[test]
fn nothing_that_is_made_of_its_pieces_gets_through() {
    let pieces = [
        AGENT,
        PATH,
        "sudo",
        "-n",
        "--",
        "report",
        "want",
        "offer",
        "--follow",
        "confirm",
        "--order",
        "1-7",
        "--nonce",
        "0a",
        "nix-daemon",
        "--stdio",
        "--option",
        "fallback",
        "true",
        "sh",
        "-c",
        "hold",
    ];
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut taken = 0;
    for _ in 0..200_000 {
        let mut words = Vec::new();
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let mut rest = seed;
        for _ in 0..=(seed % 6) {
            words.push(pieces[(rest % pieces.len() as u64) as usize]);
            rest /= pieces.len() as u64;
        }
        match parse(&words.join(" ")) {
            Ok(Run::Verb { args, .. }) => {
                taken += 1;
                assert!(
                    ["report", "want", "offer", "confirm"].contains(&args[0].as_str()),
                    "{words:?}"
                );
            }
            Ok(Run::Tool(words)) => {
                taken += 1;
                assert_eq!(words[0], "nix-daemon");
                assert_eq!(words.last().map(String::as_str), Some("--stdio"));
            }
            Ok(Run::Nothing) => assert!(words == ["true"] || words == ["sudo", "-n", "--", "true"]),
            Err(_) => {}
        }
    }
    assert!(taken > 10, "the pieces make too little: {taken}");
}
