use super::*;
use trueup_schema::wire::FailedUnitsPolicy;

fn policy(ignore: &[&str]) -> FailedUnits {
    FailedUnits {
        policy: FailedUnitsPolicy::Rollback,
        ignore: ignore.iter().map(|s| (*s).to_owned()).collect(),
    }
}

fn unit(active: &str, sub: &str, restarts: u32) -> Unit {
    Unit {
        load: "loaded".to_owned(),
        active: active.to_owned(),
        sub: sub.to_owned(),
        kind: "simple".to_owned(),
        result: "success".to_owned(),
        wanted_by: vec!["multi-user.target".to_owned()],
        tried: true,
        restarts,
        ..Unit::default()
    }
}

fn world(u: Option<Unit>) -> Units {
    let mut all = Units::new();
    all.insert("multi-user.target".to_owned(), unit("active", "active", 0));
    if let Some(u) = u {
        all.insert("a.service".to_owned(), u);
    }
    all
}

#[test]
fn the_table_of_verdicts_holds() {
    let up = || Some(unit("active", "running", 0));
    let failed = || Some(unit("failed", "failed", 0));
    let untried = || {
        let mut u = unit("inactive", "dead", 0);
        u.tried = false;
        Some(u)
    };
    let table = [
        ("up stays up", up(), up(), false),
        ("newly failed", up(), failed(), true),
        ("new and failed", None, failed(), true),
        ("failed before", failed(), failed(), false),
        ("crash loop", up(), Some(unit("active", "running", 4)), true),
        (
            "looped before",
            Some(unit("active", "running", 3)),
            Some(unit("active", "running", 9)),
            false,
        ),
        (
            "auto-restart",
            None,
            Some(unit("activating", "auto-restart", 0)),
            true,
        ),
        ("missing dependency", None, untried(), true),
        ("missing before too", untried(), untried(), false),
        (
            "condition false",
            None,
            Some(unit("inactive", "dead", 0)),
            false,
        ),
    ];
    for (what, before, now, blamed) in table {
        let got = harmed(&world(before), &world(now), &policy(&[]));
        assert_eq!(!got.is_empty(), blamed, "{what}: {got:?}");
    }
}

#[test]
fn an_ignored_prefix_is_not_blamed() {
    let now = world(Some(unit("failed", "failed", 0)));
    assert!(harmed(&world(None), &now, &policy(&["a*"])).is_empty());
    assert!(!harmed(&world(None), &now, &policy(&["b*"])).is_empty());
}
