//! What was seen of units and of the network before an attempt and in its midst: kept beside its journal, for judging and for
//! the way back.

use std::path::PathBuf;

use super::MAX_NAMED;
use crate::component::{Context, Verified};
use crate::units::seen;
use crate::units::{self, Units};
use crate::{AgentError, files, mend, network};

/// The record of units.
const BEFORE: &str = "units.json";
/// What was seen of units when the way back began.
const DURING: &str = "units-during.json";
/// Links of the network.
const NETWORK: &str = "network.json";

fn at(ctx: &Context, name: &str) -> PathBuf {
    ctx.dir().join(name)
}

/// Looks, before anything is changed. `lasting`: also after a boot.
pub(super) fn record(ctx: &Context, lasting: bool) -> Result<(), AgentError> {
    files::write_or_note(&at(ctx, BEFORE), &units::snapshot()?, lasting)?;
    files::write_or_note(&at(ctx, NETWORK), &network::look(), lasting)?;
    Ok(())
}

pub(super) fn before(ctx: &Context) -> Result<Units, AgentError> {
    Ok(files::read_json(&at(ctx, BEFORE))?.unwrap_or_default())
}

/// When the way back began: kept over a crash, since later looks show another thing.
pub(super) fn during(ctx: &Context) -> Result<Units, AgentError> {
    let path = at(ctx, DURING);
    if let Some(seen) = files::noted(&path) {
        return Ok(seen);
    }
    let seen = units::snapshot().unwrap_or_default();
    files::note(&path, &seen)?;
    Ok(seen)
}

/// What still differs after the way back.
pub(super) fn compare(ctx: &Context, found: &mut Verified) -> Result<(), AgentError> {
    let (before, now) = (before(ctx)?, units::snapshot()?);
    seen::keep(&ctx.layout, &now);
    found.differs.extend(mend::differences(&before, &now));
    if let Some(links) = files::read_json(&at(ctx, NETWORK))? {
        let lost = network::lost(&links, &network::look());
        found.differs.extend(lost);
    }
    found.differs.truncate(MAX_NAMED);
    let during: Units = files::read_json(&at(ctx, DURING))?.unwrap_or_default();
    found.restart_debt = mend::restart_debt(&[&before, &during], &now);
    found.restart_debt.truncate(MAX_NAMED);
    Ok(())
}
