//! `Check` field by field.

use super::{
    decode::{Fields, Reader},
    forms::{Decode, need_int},
    problem::ProblemKind,
    rules,
    tree::Node,
};
use crate::kind::{CheckSpec, CommandCheck, HttpCheck, TcpCheck, UnitCheck};

/// One try of a check.
const CHECK_SECS: std::ops::RangeInclusive<u64> = 1..=600;

/// What a check can ask.
const PROBES: [&str; 4] = ["unit", "tcp", "http", "command"];

impl Decode for CheckSpec {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let spec = Self {
            unit: f.opt(r, "unit"),
            tcp: f.opt(r, "tcp"),
            http: f.opt(r, "http"),
            command: f.opt(r, "command"),
            hosts: f.opt(r, "hosts"),
            allow_empty: f.opt(r, "allowEmpty"),
            timeout: f.duration(r, "timeout", CHECK_SECS),
            attempts: f.int(r, "attempts", 1..=100),
            interval: f.duration(r, "interval", 0..=600),
        };
        f.later(r, "flakeCheck");
        let given: Vec<_> = PROBES.into_iter().filter(|name| f.has(name)).collect();
        match given.as_slice() {
            [_] => {}
            [] if f.has("flakeCheck") => {}
            [] => {
                let text = format!("{} asks nothing", r.subject);
                r.report(
                    ProblemKind::NotExactlyOne,
                    node.at(),
                    text,
                    format!("give it one of: {}", PROBES.join(", ")),
                );
            }
            [_, second, ..] => {
                let text = format!("{} asks for {}", r.subject, given.join(" and "));
                r.report(
                    ProblemKind::NotExactlyOne,
                    f.key(second),
                    text,
                    "exactly one; write a Check for each",
                );
            }
        }
        f.close(r);
        Some(spec)
    }
}

impl Decode for UnitCheck {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let name = f.need_node(r, "name").and_then(|n| rules::UNIT.read(r, n));
        f.close(r);
        Some(Self { name: name? })
    }
}

impl Decode for TcpCheck {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let address = f.text(r, "address", &rules::IP);
        let port = need_int(&mut f, r, "port", 1..=65_535);
        f.close(r);
        Some(Self {
            address,
            port: port?,
        })
    }
}

impl Decode for HttpCheck {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let at = f.need_node(r, "url");
        let url = at.and_then(|n| rules::PROBE_URL.read(r, n));
        if let (Some(at), Some(url)) = (at, &url)
            && url.starts_with("https://")
        {
            r.report(
                ProblemKind::NotYet,
                at.at(),
                "`https` of a check is not built yet",
                "ask over `http`, or use `command`",
            );
        }
        let status = f.int(r, "status", 100..=599);
        f.close(r);
        Some(Self { url: url?, status })
    }
}

impl Decode for CommandCheck {
    fn decode(r: &mut Reader<'_>, node: &Node, path: &str) -> Option<Self> {
        let mut f = Fields::open(r, node, path)?;
        let at = f.need_node(r, "argv");
        let argv: Option<Vec<String>> = at.and_then(|n| Vec::decode(r, n, "argv"));
        if let (Some(at), Some(argv)) = (at, &argv) {
            command(r, at, argv);
        }
        f.close(r);
        Some(Self { argv: argv? })
    }
}

/// A program is an absolute path or a bare name; `..`, an option or a shell's line is neither.
fn command(r: &mut Reader<'_>, at: &Node, argv: &[String]) {
    let Some(program) = argv.first() else {
        r.report(
            ProblemKind::BadCommand,
            at.at(),
            "the command is empty",
            "program and arguments: `[curl, -f, http://localhost]`",
        );
        return;
    };
    let good = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    let name = program.rsplit('/').next().unwrap_or_default();
    let placed = program.starts_with('/') || !program.contains('/');
    let is_program = placed
        && !name.is_empty()
        && !name.starts_with(['-', '.'])
        && name.chars().all(good)
        && !program.contains("/../");
    if !is_program {
        let first = at.find(&[], Some(0)).unwrap_or(at);
        let help = "an absolute path, or a name from the configuration's sw/bin; each argument is an item of its own, and no shell is between";
        r.report(
            ProblemKind::BadCommand,
            first.at(),
            format!("`{program}` is not a program"),
            help,
        );
    }
    if argv.len() > 64 || argv.iter().any(|a| a.contains('\0') || a.len() > 4096) {
        r.report(
            ProblemKind::BadCommand,
            at.at(),
            "the command is too long",
            "at most 64 items of 4096 bytes",
        );
    }
}
