//! Where closures are built and kept: the hub, its builders, the caches. Each is asked from where the controller would ask.

use std::path::Path;

use futures::StreamExt as _;
use trueup_schema::kind::{FleetManifests, ResolvedCache};

use super::{Finding, bad, good, warning};
use crate::edge::nix::Nix;
use crate::run;
use crate::settings::Settings;

/// Machines and caches that are asked at once.
const AT_ONCE: usize = 8;

fn nix(settings: &Settings, scratch: &Path) -> Nix {
    let mut nix = run::nix_settings(settings, Path::new("").to_owned());
    nix.state = scratch.to_owned();
    Nix::new(nix)
}

/// A hub that is another machine.
pub async fn hub(settings: &Settings, scratch: &Path) -> Option<Finding> {
    let at = &settings.hub_store;
    let answer = nix(settings, scratch).hub_answers().await?;
    Some(match answer {
        Ok(()) => good(format!("hub: {at} answers, and roots can be kept there")),
        Err(why) => bad(
            format!("hub: {at}: {why}"),
            "hub.store in the settings: is its user root (or trusted, with a folder of its own below gcroots), its host key known, \
             its key one that this user may read?",
        ),
    }
    .of("hub"))
}

/// Builders and caches, beside each other.
pub async fn of_fleet(settings: &Settings, scratch: &Path, fleet: &FleetManifests) -> Vec<Finding> {
    let nix = nix(settings, scratch);
    let mut found = Vec::new();
    if !fleet.builders.is_empty()
        && let Err(why) = nix.hub_takes_builders().await
    {
        let fix =
            "on the hub: nix.settings.trusted-users; until then it builds by itself what it can";
        found.push(bad(format!("builders: {why}"), fix).of("hub"));
    }
    let builders = fleet.builders.values().map(|b| {
        let nix = nix.clone();
        let ask = async move {
            let at = format!("{}@{}", b.user, b.address);
            match nix.probe(b).await {
                Ok(version) => good(format!("builder {}: {at}, {version}", b.name)),
                Err(why) => bad(
                    format!("builder {}: {at}: {why}", b.name),
                    format!(
                        "from the hub: ssh {at}; its `hostKey` and `sshKey` are in the Builder {}, and {} has to be one of \
                         nix.settings.trusted-users there",
                        b.name, b.user
                    ),
                ),
            }
            .of(&format!("builder/{}", b.name))
        };
        Box::pin(ask) as futures::future::LocalBoxFuture<'_, Finding>
    });
    let caches = fleet.caches.values().map(|c| {
        let nix = nix.clone();
        let ask = async move { cache(&nix, c).await.of(&format!("cache/{}", c.name)) };
        Box::pin(ask) as futures::future::LocalBoxFuture<'_, Finding>
    });
    let all: Vec<_> = builders.chain(caches).collect();
    let asked: Vec<Finding> = futures::stream::iter(all).buffered(AT_ONCE).collect().await;
    found.extend(asked);
    found
}

async fn cache(nix: &Nix, c: &ResolvedCache) -> Finding {
    let name = &c.name;
    if let Some(folder) = c.url.strip_prefix("file://") {
        let folder = Path::new(folder.split('?').next().unwrap_or(folder));
        return match rustix::fs::access(folder, rustix::fs::Access::WRITE_OK) {
            Ok(()) => good(format!("cache {name}: {}", folder.display())),
            Err(_) if !folder.exists() && c.push => warning(format!(
                "cache {name}: {} is not there yet; it is made with the first path",
                folder.display()
            )),
            Err(_) if !c.push => good(format!("cache {name}: {}, only read", folder.display())),
            Err(e) => bad(
                format!("cache {name}: {}: {e}", folder.display()),
                "the controller's user has to be able to write there, or `push: false` in the Cache",
            ),
        };
    }
    match nix.cache_answers(c).await {
        Ok(()) => good(format!("cache {name}: answers")),
        Err(why) => {
            let why = why.replace(&c.url, "it");
            let fix = "is it up? Hosts get their paths from the hub until it answers; its address is `url` in the Cache";
            bad(format!("cache {name}: {why}"), fix)
        }
    }
}
