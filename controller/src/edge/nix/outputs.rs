//! What a flake says of its hosts to NixOS, deploy-rs and colmena, as plain values: names, addresses, users, ports. No
//! closure is evaluated. A flake may hold anything, so only text, numbers, switches and short lists of them come back, and
//! of everything else its kind.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use trueup_engine::ports::EvalFailure;

use super::Nix;
use super::evaluate::failed;
use super::expression::literal;

/// A few thousand hosts in JSON.
const OUTPUT_BYTES: usize = 16 << 20;
/// Names alone; a flake's inputs may have to be fetched first.
const NAMES_WALL: Duration = Duration::from_secs(600);

/// Hosts (or nodes) of one output that are looked at.
pub const NAMES_MAX: usize = 4096;

/// `val`: a plain value, or what is there instead. `tryEval` catches what throws; what fails otherwise ends the process.
const COMMON: &str = r#"
  b = builtins;
  peel = n: v: if n > 0 && b.isAttrs v && (v._type or null) == "override" && v ? content then peel (n - 1) v.content else v;
  leaf = v:
    if b.isString v then (if b.stringLength v > 1024 then { odd = "text of more than 1024 bytes"; } else { v = b.unsafeDiscardStringContext v; })
    else if b.isInt v || b.isBool v || v == null then { inherit v; }
    else { odd = "a ${b.typeOf v}"; };
  plain = v:
    if b.isList v then
      (if b.length v > 64 then { odd = "a list of more than 64"; }
       else let all = map leaf v; in if b.any (x: x ? odd) all then { odd = "a list of other things than text"; } else { v = map (x: x.v) all; })
    else leaf v;
  val = v: let t = b.tryEval (let p = plain (peel 4 v); in b.deepSeq p p); in if t.success then t.value else { odd = "something that does not evaluate"; };
  pick = keys: set: if b.isAttrs set then b.listToAttrs (b.concatMap (k: if set ? ${k} then [ { name = k; value = val set.${k}; } ] else [ ]) keys) else { };
  first = all: if b.length all > MAX then b.genList (b.elemAt all) MAX else all;
  names = set: if b.isAttrs set then first (b.attrNames set) else [ ];
  each = f: set: b.listToAttrs (map (n: { name = n; value = f n set.${n}; }) (names set));
  deployment = d: pick [ "targetHost" "targetUser" "targetPort" "tags" "allowLocalDeployment" "buildOnTarget" "sshOptions" "privilegeEscalationCommand" ] d
    // { keys = names (d.keys or { }); };
"#;

/// deploy-rs: the same settings at three levels.
const DEPLOY: &str = r#"
  settings = pick [ "sshUser" "user" "sshOpts" "autoRollback" "magicRollback" "confirmTimeout" "activationTimeout" "remoteBuild" "interactiveSudo" "sudo" "hostname" ];
  deploy = d: settings d // { nodes = each (_: n: settings n // { profiles = each (_: settings) (n.profiles or { }); }) (d.nodes or { }); };
"#;

/// colmena's own form: a module for each node. A function gets arguments that must not be needed: what depends on the
/// module system (a list of modules, `mkIf`, `imports`) is not known here, and is said to be so.
const HIVE: &str = r#"
  call = n: m:
    let
      f = if b.isPath m then import m else m;
      a = b.functionArgs f;
      arguments = b.mapAttrs (_: _: throw "only known to the module system") a // (if a == { } || a ? name then { name = n; } else { });
    in if b.isFunction f then f arguments else f;
  typed = s: !(b.isAttrs s) || s ? _type;
  said = n: m:
    let t = b.tryEval (let
      r = call n m;
      d = r.deployment or r.config.deployment or { };
    in b.seq d (if typed r || typed (r.config or { }) || typed d then { odd = true; }
      else deployment d // (if b.attrNames d == [ ] && r ? imports then { elsewhere = true; } else { })));
    in if t.success then t.value else { odd = true; };
  hive = h: { defaults = if h ? defaults then said "defaults" h.defaults else { }; nodes = each said (b.removeAttrs h [ "meta" "defaults" "network" "__schema" ]); };
"#;

/// Which part of a flake is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Names of `nixosConfigurations`.
    Nixos,
    /// `deploy`, for deploy-rs.
    Deploy,
    /// `colmena`, as written.
    Colmena,
    /// Names of `colmenaHive`'s nodes.
    ColmenaHive,
}

impl Nix {
    /// One output's values; `null`: the flake has none.
    pub async fn output(&self, flake: &Path, output: Output) -> Result<Value, EvalFailure> {
        let (helpers, body) = match output {
            Output::Nixos => (
                "",
                "if o ? nixosConfigurations then names o.nixosConfigurations else null",
            ),
            Output::Deploy => (DEPLOY, "if o ? deploy then deploy o.deploy else null"),
            Output::Colmena => (HIVE, "if o ? colmena then hive o.colmena else null"),
            Output::ColmenaHive => (
                "",
                "if o ? colmenaHive then names (o.colmenaHive.nodes or { }) else null",
            ),
        };
        self.apply(flake, &expression(helpers, body), NAMES_WALL)
            .await
    }

    /// Of each of these hosts, by their configurations' own word: the platform, and what a hive says of it. This evaluates
    /// the few options that are asked for, and whatever those need.
    pub async fn platforms(&self, flake: &Path, hosts: &[Asked<'_>]) -> Result<Value, EvalFailure> {
        let mut list = String::from("{");
        for host in hosts {
            let name = literal(host.name);
            let from = if host.in_nixos {
                "nixosConfigurations"
            } else {
                "colmenaHive.nodes"
            };
            list.push_str(&format!(
                " {name} = {{ system = val (system o.{from}.{name});"
            ));
            if host.in_hive {
                list.push_str(&format!(
                    " deployment = deployment o.colmenaHive.nodes.{name}.config.deployment;"
                ));
            }
            list.push_str(" };");
        }
        list.push_str(" }");
        let system = "  system = c: c.pkgs.stdenv.hostPlatform.system or c.config.nixpkgs.hostPlatform.system or c.config.nixpkgs.system \
             or c.config.system.build.toplevel.system or null;\n";
        self.apply(
            flake,
            &expression(system, &list),
            self.settings.evaluation_wall,
        )
        .await
    }

    async fn apply(
        &self,
        flake: &Path,
        function: &str,
        wall: Duration,
    ) -> Result<Value, EvalFailure> {
        let mut installable = flake.as_os_str().to_owned();
        installable.push("#.");
        let mut args: Vec<OsString> = ["eval", "--json", "--no-write-lock-file"]
            .map(Into::into)
            .to_vec();
        args.extend([installable, "--apply".into(), function.into()]);
        let exit = self.run_evaluation(args, wall, OUTPUT_BYTES).await?;
        if !exit.ok() || exit.truncated {
            return Err(failed(&exit));
        }
        serde_json::from_slice(&exit.stdout).map_err(|e| EvalFailure {
            class: trueup_schema::ErrorClass::Bug,
            message: format!("what Nix printed is not understood: {e}"),
            trace: String::new(),
        })
    }
}

/// A host whose configuration is asked.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The attribute.
    pub name: &'a str,
    /// It is one of `nixosConfigurations`, else of `colmenaHive.nodes`.
    pub in_nixos: bool,
    /// `colmenaHive.nodes` has it too.
    pub in_hive: bool,
}

fn expression(helpers: &str, body: &str) -> String {
    let common = COMMON.replace("MAX", &NAMES_MAX.to_string());
    format!("o: let{common}{helpers}in {body}")
}
