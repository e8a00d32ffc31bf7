//! `plan` of a thousand hosts: core's own function over what a controller would know of them, in this process. A tenth of
//! the hosts are to be changed, a hundredth do not answer.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use trueup_core::host::{Wanted, Work};
use trueup_core::plan::{FleetView, plan};
use trueup_core::standing::Standing;
use trueup_schema::kind::{Adopt, FleetManifests};
use trueup_schema::wire::system_digest;
use trueup_schema::{Digest, Revision, StorePath, Timestamp};

use crate::numbers::{Outcome, Series};
use crate::thousand;

const HOSTS: usize = 1000;
const RUNS: usize = 100;
/// Promise of issue 2, in milliseconds.
const MAX: f64 = 50.0;

pub fn run(outcome: &mut Outcome) -> Result<()> {
    let names = thousand::names(HOSTS);
    let files = [
        ("fleet/fleet.yaml", thousand::FLEET.to_owned()),
        ("fleet/hosts.yaml", thousand::manifests(&names)),
    ];
    let fleet = trueup_schema::manifest::resolve(&files).map_err(|p| anyhow!("{p:?}"))?;
    let now = Timestamp::now();
    let standings = standings(&fleet, now)?;
    let mut took = Series::default();
    let mut changes = 0;
    for seed in 0..RUNS as u64 {
        let began = Instant::now();
        let view = FleetView {
            rollout: &fleet.fleet.rollout,
            hosts: standings
                .iter()
                .map(|s| s.view(Adopt::Auto, Duration::from_secs(300)))
                .collect(),
        };
        let drawn = plan(&view, now, seed);
        took.add(began.elapsed().as_secs_f64() * 1e3);
        changes = drawn.changes().count();
        anyhow::ensure!(drawn.hosts.len() == HOSTS, "a host is missing in the plan");
    }
    anyhow::ensure!(
        changes > 0,
        "the plan changes nothing, so it proves nothing"
    );
    let median = took.median();
    outcome.row(
        format!("plan of {HOSTS} hosts, {changes} to change"),
        "ms",
        took,
    );
    outcome.promise(
        format!("plan of {HOSTS} hosts: {median:.1} ms, less than {MAX:.0}"),
        median < MAX,
    );
    Ok(())
}

fn standings(fleet: &FleetManifests, now: Timestamp) -> Result<Vec<Standing>> {
    let revision = Revision::new("main", &"a".repeat(40))?;
    let hosts = fleet.hosts.values().enumerate();
    hosts
        .map(|(n, manifest)| {
            let old = wanted(&format!("{} one", manifest.name))?;
            let new = if n % 10 == 0 {
                wanted(&format!("{} two", manifest.name))?
            } else {
                old.clone()
            };
            let work = Work::Done(new);
            let mut s =
                Standing::supposed(manifest.clone(), revision.clone(), Some(&old), work, now);
            if n % 100 == 1 {
                s.memory.misses = 5;
            }
            Ok(s)
        })
        .collect()
}

fn wanted(what: &str) -> Result<Wanted> {
    let hash = Digest::of(what.as_bytes()).as_str()[..32].replace('e', "x");
    let closure: StorePath = format!("/nix/store/{hash}-nixos-system").parse()?;
    Ok(Wanted {
        drv: format!("{closure}.drv").parse()?,
        digest: system_digest(&closure, None),
        closure,
    })
}
