//! `trueup plan` of two revisions: with the stand-in for Nix what manifests say, with the real one what derivations say.

use std::path::Path;

use serde_json::Value;
use trueup_fixtures::fleet;

use super::{Place, said};

fn edit(place: &Place, file: &str, change: impl Fn(&str) -> String) {
    let path = place.path("fleet").join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let new = change(&text);
    assert_ne!(text, new, "{file}");
    std::fs::write(path, new).unwrap();
}

fn commit(place: &Place, message: &str) {
    fleet::commit_all(&place.path("fleet"), message).unwrap();
}

#[test]
fn a_plan_names_what_manifests_change() {
    let place = Place::new();
    let plan = ["plan", "--repo", "fleet", "--config", "trueup.yaml"];
    let with = |more: &[&'static str]| [&plan[..], more].concat();
    // The first commit has nothing before it; the second changes a field, adds a host and removes one.
    let first = place.transcript(&[&with(&[])]);
    edit(&place, "fleet/hosts.yaml", |text| {
        let text = text.replacen("    port: 1", "    port: 2222", 1);
        text.replace("name: db-1", "name: db-2")
    });
    commit(&place, "db-1 becomes db-2");
    let second = place.transcript(&[
        &with(&[]),
        &with(&["--detailed-exitcode"]),
        &with(&["-o", "markdown"]),
        &with(&["host/web-2"]),
        &with(&["web-3"]),
        &with(&["--to", "nowhere"]),
        &with(&["--from", "HEAD", "--detailed-exitcode"]),
    ]);
    edit(&place, "fleet/hosts.yaml", |text| {
        text.replacen("address:", "adress:", 1)
    });
    let dirty = place.transcript(&[&with(&["web-2"])]);
    commit(&place, "a slip");
    let bad = place.transcript(&[&with(&[]), &["plan"], &["plan", "--repo", "/"]]);
    super::golden("plan.txt", &[first, second, dirty, bad].concat());
}

/// Units, a kernel and packages as NixOS has them, each a derivation of its own; nothing is built.
const FLAKE: &str = r#"{ outputs = { self }: let
  drv = name: env: derivation ({ inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; } // env);
  host = name: { nginx, kernel, broken ? false }: let
    server = drv "nginx-${nginx}" { };
    unit = drv "unit-nginx.service" { text = "[Service]\nExecStart=${server}\n"; };
    image = drv "linux-${kernel}" { };
  in { config.system.build.toplevel = if broken then throw "no such option" else drv "nixos-system-${name}-26.05" {
    kernelParams = "quiet"; units = [ unit ];
    buildCommand = "ln -s ${image}/bzImage $out/kernel\necho -n \"$kernelParams\" > $out/kernel-params\n";
  }; };
in { nixosConfigurations = builtins.mapAttrs host (import ./hosts.nix); }; }"#;

const HOSTS: &str = r#"{
  web-1 = { nginx = "1.27.3"; kernel = "6.12.30"; };
  web-2 = { nginx = "1.27.3"; kernel = "6.12.30"; };
  db-1 = { nginx = "1.27.3"; kernel = "6.12.30"; };
}
"#;

#[test]
fn a_plan_names_packages_units_and_reboots_before_anything_is_built() {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|p| p.join("nix").is_file()) {
        eprintln!("SKIPPED: no `nix` in PATH (cargo xtask lab env prints one)");
        return;
    }
    let place = Place::new();
    let write =
        |file: &str, text: &str| std::fs::write(place.path("fleet").join(file), text).unwrap();
    write("flake.nix", FLAKE);
    write("hosts.nix", HOSTS);
    commit(&place, "before");
    let changed = HOSTS.replacen("1.27.3", "1.29.1", 1).replacen(
        "6.12.30\"; };\n}",
        "6.12.31\"; broken = true; };\n}",
        1,
    );
    let changed = changed.replacen(
        "web-2 = { nginx = \"1.27.3\"; kernel = \"6.12.30\"",
        "web-2 = { nginx = \"1.27.3\"; kernel = \"6.12.31\"",
        1,
    );
    write("hosts.nix", &changed);
    commit(&place, "nginx on web-1, a kernel on web-2, db-1 broken");
    let store = place.path("store").display().to_string();
    let ask = |output: &str| {
        let mut command =
            place.command(&["plan", "--repo", "fleet", "--store", &store, "-o", output]);
        command.env(
            "NIX_CONFIG",
            std::env::var("NIX_CONFIG").unwrap_or_default(),
        );
        said(command)
    };
    let said = ask("json");
    assert_eq!(
        said.code, 1,
        "a host that fails makes the plan fail: {said:?}"
    );
    let plan: Value = serde_json::from_str(&said.out).unwrap();
    let of = |name: &str| {
        let hosts = plan["hosts"].as_array().unwrap();
        hosts.iter().find(|h| h["name"] == name).unwrap().clone()
    };
    let web = of("web-1");
    assert_eq!(web["change"], "changed", "{web:#}");
    let nginx = serde_json::json!([{"name": "nginx", "from": ["1.27.3"], "to": ["1.29.1"]}]);
    assert_eq!(web["packages"]["changes"], nginx);
    assert_eq!(
        web["units"]["restart"],
        serde_json::json!(["nginx.service"])
    );
    assert_eq!(web["reboot"]["because"], serde_json::json!([]));
    let kernel = of("web-2");
    assert_eq!(kernel["reboot"]["because"], serde_json::json!(["kernel"]));
    assert_eq!(kernel["units"]["restart"], serde_json::json!([]));
    let broken = of("db-1");
    assert_eq!(broken["change"], "fails");
    assert!(
        broken["problem"]
            .as_str()
            .unwrap()
            .contains("no such option"),
        "{broken:#}"
    );

    let text = ask("table").out;
    let row = "nginx 1.27.3 → 1.29.1 (by derivations) · restart nginx.service · no reboot";
    assert!(text.contains(row), "{text}");
    assert!(
        text.contains("reboot for kernel, by hand: its policy is never"),
        "{text}"
    );
    let text = ask("markdown").out;
    assert!(
        text.contains("| **web-2** | changed | linux 6.12.30 → 6.12.31"),
        "{text}"
    );
    assert!(text.contains("**1 fail**"), "{text}");

    // A commit of manifests alone: no Nix file reads them, so one evaluation answers for both revisions, of one attribute for
    // all hosts that have it.
    write("hosts.nix", HOSTS);
    commit(&place, "as it was");
    let field = |text: &str| text.replacen("    port: 1", "    port: 2222", 1);
    edit(&place, "fleet/hosts.yaml", field);
    commit(&place, "another port");
    let said = ask("json");
    let plan: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(plan["summary"]["hosts"], 3, "{plan:#}");
    assert_eq!(plan["summary"]["evaluated"], 3, "{plan:#}");
    assert_eq!(plan["summary"]["changed"], 1, "{plan:#}");
    for host in plan["hosts"].as_array().unwrap() {
        assert!(host["closureTo"].is_string(), "{host:#}");
        assert_eq!(host["closureTo"], host["closureFrom"], "{host:#}");
    }
    let shared = |text: &str| {
        let name = "nixosConfigurations.web-1.config.system.build.toplevel";
        text.replace("  address:", &format!("  closure: {name}\n  address:"))
    };
    edit(&place, "fleet/hosts.yaml", shared);
    commit(&place, "all are as web-1");
    let plan: Value = serde_json::from_str(&ask("json").out).unwrap();
    // Three before; after it one attribute, which was among them.
    assert_eq!(plan["summary"]["evaluated"], 3, "{plan:#}");
    let read = HOSTS.replace("1.27.3", "1.29.1");
    write("hosts.nix", &read);
    commit(&place, "nginx");
    let plan: Value = serde_json::from_str(&ask("json").out).unwrap();
    assert_eq!(plan["summary"]["evaluated"], 2, "one each: {plan:#}");
    // A Nix file that reads a manifest makes every answer its own revision's.
    let reads = FLAKE.replace(
        "builtins.mapAttrs host",
        "builtins.seq (builtins.readFile ./fleet/hosts.yaml) builtins.mapAttrs host",
    );
    write("flake.nix", &reads);
    commit(&place, "it reads a manifest");
    edit(&place, "fleet/hosts.yaml", |text| {
        text.replacen("2222", "2223", 1)
    });
    commit(&place, "and the port");
    let plan: Value = serde_json::from_str(&ask("json").out).unwrap();
    assert_eq!(plan["summary"]["evaluated"], 2, "{plan:#}");
    make_removable(&place.path("store"));
}

/// Nix makes what it stores read-only; the folder could not be removed.
fn make_removable(store: &Path) {
    let _best_effort = std::fs::remove_dir_all(store);
}
