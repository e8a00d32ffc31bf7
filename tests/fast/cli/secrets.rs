//! Secrets in a pull request: what `validate` refuses, with the command that mends it, and what `plan` tells of them.
//! Nothing is opened for either, and no plain text is in what they print.

use std::path::Path;

use serde_json::{Value, json};
use trueup_fixtures::fleet;
use trueup_secrets::{EncryptSpec, Encrypted, Format, Identities, Recipient, ScopeRule};

use super::Place;

/// Real public keys, of no machine.
pub(super) const WEB: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS";
pub(super) const DB: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGA03j/GZFfPXNVha/hGqnsMF4NRczHgGWsKK4+P7Qxj";
pub(super) const PLAIN: &str = "token: planted-value-1\nhash: planted-value-2\n";

/// A fleet whose hosts have keys, an admin whose private key is found, and one file for web-1.
pub(super) struct Fleet {
    pub place: Place,
    admin: Identities,
    pub recipient: Recipient,
}

impl Fleet {
    pub fn new() -> Self {
        use secrecy::ExposeSecret as _;
        let place = Place::new();
        let (secret, recipient) = trueup_secrets::generate_identity();
        let keys = place.path(".config/sops/age");
        std::fs::create_dir_all(&keys).unwrap();
        std::fs::write(keys.join("keys.txt"), secret.expose_secret()).unwrap();
        let mut admin = Identities::new();
        admin.add_age(secret.expose_secret()).unwrap();
        let fleet = Self {
            place,
            admin,
            recipient,
        };
        // Each host its own key, and the admin in the Fleet.
        let hosts = fleet.read("fleet/hosts.yaml");
        let parts: Vec<String> = hosts.split("---").map(str::to_owned).collect();
        let parts = parts.iter().map(|part| {
            let key = if part.contains("name: db-1") { DB } else { WEB };
            let line = part.lines().find(|l| l.contains("hostKeys:")).unwrap();
            part.replace(line, &format!("    hostKeys: [\"{key}\"]"))
        });
        fleet.write("fleet/hosts.yaml", &parts.collect::<Vec<_>>().join("---"));
        let name = std::fs::read_dir(fleet.place.path("fleet/fleet"))
            .unwrap()
            .flatten()
            .map(|e| e.file_name().into_string().unwrap())
            .find(|n| n != "hosts.yaml")
            .unwrap();
        let text = fleet.read(&format!("fleet/{name}"));
        let admins = format!("spec:\n  secrets: {{admins: [{}]}}\n", fleet.recipient);
        fleet.write(
            &format!("fleet/{name}"),
            &text.replacen("spec:\n", &admins, 1),
        );
        fleet.write("secrets/web.yaml", &fleet.sealed());
        fleet.secrets("role=web,zone=a", "\"0400\"");
        fleet.commit("with secrets");
        fleet
    }

    pub fn sealed(&self) -> String {
        let web = Recipient::of_host_key(WEB).unwrap().remove(0);
        let spec = EncryptSpec {
            groups: vec![vec![web, self.recipient.clone()]],
            shamir_threshold: None,
            rule: ScopeRule::Default,
            mac_only_encrypted: false,
            now: "2026-11-22T01:02:03Z".parse().unwrap(),
        };
        let sealed = trueup_secrets::encrypt(PLAIN.as_bytes(), Format::Yaml, &spec).unwrap();
        String::from_utf8(sealed).unwrap()
    }

    /// Two secrets of one file: a unit's, and one that users are made from.
    pub fn secrets(&self, hosts: &str, mode: &str) {
        let text = format!(
            "apiVersion: trueup/v1alpha1\nkind: Secret\nmetadata: {{name: token}}\nspec:\n  source: secrets/web.yaml\n  \
             key: token\n  hosts: \"{hosts}\"\n  mode: {mode}\n  restartUnits: [web.service]\n  reloadUnits: [proxy.service]\n\
             ---\napiVersion: trueup/v1alpha1\nkind: Secret\nmetadata: {{name: ana}}\nspec:\n  source: secrets/web.yaml\n  \
             key: hash\n  hosts: \"role=web,zone=a\"\n  neededForUsers: true\n"
        );
        self.write("fleet/secrets.yaml", &text);
        let hosts = self.read("fleet/hosts.yaml");
        if !hosts.contains("module: true") {
            let with = hosts.replace("spec:\n", "spec:\n  secrets: {module: true}\n");
            self.write("fleet/hosts.yaml", &with);
        }
    }

    fn at(&self, file: &str) -> std::path::PathBuf {
        Path::new(&self.place.path("fleet")).join(file)
    }

    pub fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.at(file)).unwrap()
    }

    pub fn write(&self, file: &str, text: &str) {
        std::fs::create_dir_all(self.at(file).parent().unwrap()).unwrap();
        std::fs::write(self.at(file), text).unwrap();
    }

    pub fn commit(&self, message: &str) {
        fleet::commit_all(&self.place.path("fleet"), message).unwrap();
    }

    pub fn file(&self) -> Encrypted {
        Encrypted::parse(self.read("secrets/web.yaml").as_bytes(), Format::Yaml).unwrap()
    }

    fn set(&self, key: &str, value: &str) {
        let now = "2026-11-23T01:02:03Z".parse().unwrap();
        let value = json!(value).to_string();
        let new = self.file().set(&self.admin, key, &value, now).unwrap();
        self.write(
            "secrets/web.yaml",
            std::str::from_utf8(&new.unwrap()).unwrap(),
        );
    }

    /// The plan of the last commit: its secrets by host, and the table.
    fn plan(&self) -> (Value, String) {
        let plan = ["plan", "--repo", "fleet", "--config", "trueup.yaml"];
        let said = self.place.ask(&[&plan[..], &["-o", "json"]].concat());
        assert_eq!(said.code, 0, "{said:?}");
        let plan_json: Value = serde_json::from_str(&said.out).unwrap();
        let table = self.place.ask(&plan).out;
        let markdown = self
            .place
            .ask(&[&plan[..], &["-o", "markdown"]].concat())
            .out;
        for text in [&said.out, &table, &markdown] {
            assert!(!text.contains("planted-value"), "{text}");
        }
        let hosts = plan_json["hosts"].as_array().unwrap();
        let by_host = hosts.iter().map(|h| {
            let name = h["name"].as_str().unwrap().to_owned();
            (name, h["secrets"].clone())
        });
        (Value::Object(by_host.collect()), table)
    }
}

#[test]
fn a_host_that_cannot_open_its_secret_is_refused_with_the_command_that_mends_it() {
    let fleet = Fleet::new();
    let good = fleet.place.ask(&["validate", "fleet"]);
    assert_eq!(good.code, 0, "{good:?}");
    fleet.secrets("zone=a", "\"0400\"");
    let bad = fleet.place.ask(&["validate", "fleet"]);
    assert_eq!(bad.code, 1, "{bad:?}");
    let told = "`db-1` cannot open `secrets/web.yaml`: its key is not among its recipients";
    assert!(bad.err.contains(told), "{}", bad.err);
    assert!(bad.err.contains("fleet/secrets.yaml"), "{}", bad.err);
    // The command that it names, as it stands there.
    let said = bad.err.split('`').find(|w| w.starts_with("trueup secrets"));
    let words: Vec<&str> = said.unwrap().split(' ').skip(1).collect();
    assert_eq!(words, ["secrets", "updatekeys", "token"]);
    let before = fleet.read("secrets/web.yaml");
    let dry = fleet
        .place
        .ask(&[&words[..], &["--dry-run", "--repo", "fleet"]].concat());
    assert_eq!(dry.code, 0, "{dry:?}");
    assert_eq!(fleet.read("secrets/web.yaml"), before);
    let mended = fleet
        .place
        .ask(&[&words[..], &["--repo", "fleet"]].concat());
    assert_eq!(mended.code, 0, "{mended:?}");
    let good = fleet.place.ask(&["validate", "fleet"]);
    assert_eq!(good.code, 0, "{good:?}");
    // No value was touched, and the plan says so: only the host that came gets something.
    fleet.commit("token for db too");
    let (plan, _) = fleet.plan();
    assert_eq!(plan["web-1"], json!([]), "{plan:#}");
    assert_eq!(plan["db-1"][0]["differs"], "new", "{plan:#}");
}

#[test]
fn secrets_that_no_host_could_use_are_refused() {
    let fleet = Fleet::new();
    let refused = |what: &str| {
        let said = fleet.place.ask(&["validate", "fleet"]);
        assert_eq!(said.code, 1, "{what}: {said:?}");
        assert!(said.err.contains(what), "{what}: {}", said.err);
    };
    let (manifest, sealed) = (
        fleet.read("fleet/secrets.yaml"),
        fleet.read("secrets/web.yaml"),
    );
    fleet.write(
        "fleet/secrets.yaml",
        &manifest.replace("key: token", "key: tokn"),
    );
    refused("there is no key `tokn` in `secrets/web.yaml`");
    let elsewhere = manifest.replace("secrets/web.yaml", "secrets/new.yaml");
    fleet.write("fleet/secrets.yaml", &elsewhere);
    refused("there is no file `secrets/new.yaml` in the repository");
    fleet.write("secrets/new.yaml", &sealed);
    refused("`secrets/new.yaml` is not tracked by Git");
    fleet.write("fleet/secrets.yaml", &manifest);
    fleet.write("secrets/web.yaml", PLAIN);
    refused("`secrets/web.yaml` is not encrypted");
    fleet.write("secrets/web.yaml", &sealed);
    let hosts = fleet.read("fleet/hosts.yaml");
    fleet.write(
        "fleet/hosts.yaml",
        &hosts.replace("module: true", "module: false"),
    );
    refused("neededForUsers");
    fleet.write("fleet/hosts.yaml", &hosts);
    // A file that no intent holds: each byte of it is known to be too many before a host sees any.
    let spec = EncryptSpec {
        groups: vec![vec![
            fleet.recipient.clone(),
            Recipient::of_host_key(WEB).unwrap().remove(0),
        ]],
        shamir_threshold: None,
        rule: ScopeRule::Default,
        mac_only_encrypted: false,
        now: "2026-11-22T01:02:03Z".parse().unwrap(),
    };
    let large = format!("{PLAIN}large: {}\n", "x".repeat(600 << 10));
    let large = trueup_secrets::encrypt(large.as_bytes(), Format::Yaml, &spec).unwrap();
    fleet.write("secrets/web.yaml", std::str::from_utf8(&large).unwrap());
    refused("the secrets of host `web-1` come to");
}

#[test]
fn a_plan_says_which_secrets_change_where_and_what_restarts() {
    let fleet = Fleet::new();
    // Another value: the unit's secret alone.
    fleet.set("token", "planted-value-3");
    fleet.commit("another token");
    let (plan, table) = fleet.plan();
    let token = |differs: &str| json!({"name": "token", "differs": differs, "restart": ["web.service"], "reload": ["proxy.service"], "activates": false});
    assert_eq!(plan["web-1"], json!([token("value")]), "{plan:#}");
    assert_eq!((&plan["web-2"], &plan["db-1"]), (&json!([]), &json!([])));
    let row = "changed    secret token: another value, restart web.service, reload proxy.service";
    assert!(table.contains(row), "{table}");
    assert!(table.contains("1 changed, 2 unchanged"), "{table}");
    // What users are made from: the activation runs again.
    fleet.set("hash", "planted-value-4");
    fleet.commit("another password");
    let (plan, table) = fleet.plan();
    let ana = json!([{"name": "ana", "differs": "value", "restart": [], "reload": [], "activates": true}]);
    assert_eq!(plan["web-1"], ana, "{plan:#}");
    let row = "secret ana: another value, the running closure's activation again, for its users";
    assert!(table.contains(row), "{table}");
    // Another mode.
    fleet.secrets("role=web,zone=a", "\"0440\"");
    fleet.commit("another mode");
    assert_eq!(fleet.plan().0["web-1"], json!([token("access")]));
    // Sealed anew: from here nobody sees whether the values are others.
    fleet.write("secrets/web.yaml", &fleet.sealed());
    fleet.commit("rotated");
    let (plan, table) = fleet.plan();
    assert_eq!(plan["web-1"][1], token("sealed"), "{plan:#}");
    assert!(
        table.contains("sealed anew; if its value is another, restart web.service"),
        "{table}"
    );
    // Taken away: nothing restarts.
    let text = fleet.read("fleet/secrets.yaml");
    fleet.write("fleet/secrets.yaml", text.split_once("---\n").unwrap().1);
    fleet.commit("no token");
    let gone = json!([{"name": "token", "differs": "removed", "restart": [], "reload": [], "activates": false}]);
    assert_eq!(fleet.plan().0["web-1"], gone);
}
