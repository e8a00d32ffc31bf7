//! The agent's way to a host: a content-addressed path in the hub's store, so that no signature is needed, copied when
//! the host lacks it, and rooted there.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use trueup_engine::ports::{Target, TransportError, TransportFault};
use trueup_schema::{StorePath, System};

use super::config::Freshness;
use super::{Inner, SshSettings, error, fault};
use crate::edge::exec::{self, ExecSpec};

const ROOTS: &str = "/nix/var/nix/gcroots/trueup";
const PROGRAM: &str = "bin/trueup-agent";

/// Where each platform's agent lies in the store, once it was added.
#[derive(Debug, Default)]
pub struct Packages(RefCell<BTreeMap<System, StorePath>>);

impl Packages {
    /// The program's path on the host.
    pub async fn program(
        &self,
        settings: &SshSettings,
        run_dir: &Path,
        target: &Target,
    ) -> Result<String, TransportError> {
        let path = self.path(settings, run_dir, target).await?;
        Ok(format!("{path}/{PROGRAM}"))
    }

    pub async fn path(
        &self,
        settings: &SshSettings,
        run_dir: &Path,
        target: &Target,
    ) -> Result<StorePath, TransportError> {
        if let Some(known) = self.0.borrow().get(&target.system) {
            return Ok(known.clone());
        }
        let fail = |why: String| error(&target.host, TransportFault::Agent, why);
        let given = settings.agents.get(&target.system).ok_or_else(|| {
            fail(format!(
                "there is no agent for {}: name one in `agent.packages` of trueup.yaml",
                target.system
            ))
        })?;
        let path = match given.to_str().and_then(|p| p.parse::<StorePath>().ok()) {
            Some(path) => path,
            None => add(settings, run_dir, given, &target.system)
                .await
                .map_err(fail)?,
        };
        self.0
            .borrow_mut()
            .insert(target.system.clone(), path.clone());
        Ok(path)
    }
}

/// Puts it into the hub's store.
async fn add(
    settings: &SshSettings,
    run_dir: &Path,
    given: &Path,
    system: &System,
) -> Result<StorePath, String> {
    let folder = if given.is_dir() {
        given.to_owned()
    } else {
        stage(run_dir, given, system)?
    };
    let mut args: Vec<std::ffi::OsString> = Vec::new();
    if let Some(hub) = &settings.hub {
        args.extend(["--store".into(), hub.into()]);
    }
    args.extend(["store", "add", "--mode", "nar", "--name", "trueup-agent"].map(Into::into));
    args.push(folder.into());
    let mut spec = ExecSpec::new(settings.nix.clone(), args);
    spec.env = settings.env.clone();
    let exit = exec::run(&spec).await.map_err(|e| e.to_string())?;
    if !exit.ok() {
        return Err(format!(
            "adding the agent to the hub's store: {}",
            exit.err_text()
        ));
    }
    exit.out_text()
        .parse()
        .map_err(|e| format!("adding the agent to the hub's store: {e}"))
}

/// A store path's content must be the same each time: this program and nothing else.
fn stage(run_dir: &Path, program: &Path, system: &System) -> Result<PathBuf, String> {
    let folder = run_dir.join(format!("agent-{system}"));
    let place = folder.join(PROGRAM);
    let fail = |e: std::io::Error| format!("reading the agent at {}: {e}", program.display());
    std::fs::create_dir_all(folder.join("bin")).map_err(fail)?;
    // The one of an earlier run may not be written to by others than root.
    let _not_there = std::fs::remove_file(&place);
    std::fs::copy(program, &place).map_err(fail)?;
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o555)).map_err(fail)?;
    Ok(folder)
}

impl Inner {
    /// Copies the agent and roots it: the root first, so that no collection comes between.
    pub(super) async fn bring_agent(&self, target: &Target) -> Result<(), TransportError> {
        let path = self
            .agents
            .path(&self.settings, &self.run_dir, target)
            .await?;
        let root = format!("{ROOTS}/agent");
        for words in [
            vec!["mkdir", "-p", ROOTS],
            vec!["ln", "-sfn", path.as_str(), &root],
        ] {
            let spec = self.spec(target, Freshness::Reuse, &words)?;
            let exit = self.run(target, &spec).await?;
            if !exit.ok() {
                return Err(fault::of(target, &exit));
            }
        }
        self.copy(target, &[path.as_str()]).await
    }
}
