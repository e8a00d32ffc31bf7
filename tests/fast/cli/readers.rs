//! Who can read the fleet's secrets, and how that is changed: `check`, `updatekeys`, `host-key`, `sops-yaml`, and a host
//! key that is rotated. Judged by the files that come out, and by what a person reads.

use serde_json::{Value, json};
use trueup_secrets::rules::CreationRules;
use trueup_secrets::{Identities, Mac, Recipient, generate_identity, ssh_public_to_age};

use super::Said;
use super::secrets::{DB, Fleet, PLAIN, WEB};

/// In this fleet they have one key.
const BOTH: &str = "host/web-1, host/web-2";
const OTHER: &str = "secrets/other.yaml";

impl Fleet {
    fn secrets_verb(&self, args: &[&str]) -> Said {
        let (verb, rest) = args.split_first().unwrap();
        let words = [&["secrets", *verb, "--repo", "fleet"], rest].concat();
        self.place.ask(&words)
    }

    fn check(&self) -> Vec<Value> {
        let said = self.secrets_verb(&["check", "-o", "json"]);
        let mut all: Value = serde_json::from_str(&said.out).unwrap();
        let bad = |s: &Value| s["status"] == "missing" || s["status"] == "wrong";
        let all = all["secrets"].as_array_mut().unwrap();
        assert_eq!(said.code, i32::from(all.iter().any(bad)), "{said:?}");
        std::mem::take(all)
    }

    /// `who`, `wanted`, `present` of each reader of a secret.
    fn readers(&self, name: &str) -> Value {
        let all = self.check();
        let secret = all.iter().find(|s| s["name"] == name).unwrap();
        let readers = secret["readers"].as_array().unwrap().iter();
        readers
            .map(|r| json!([r["who"], r["wanted"], r["present"]]))
            .collect()
    }

    /// A second file, for the same.
    fn with_another_file(&self) {
        self.write(OTHER, &self.sealed());
        let more = "---\napiVersion: trueup/v1alpha1\nkind: Secret\nmetadata: {name: other}\nspec:\n  source: secrets/other.yaml\n  key: token\n  hosts: role=db\n";
        let text = self.read("fleet/secrets.yaml");
        self.write("fleet/secrets.yaml", &format!("{text}{more}"));
        self.commit("another file");
    }

    fn recipients(&self) -> Vec<String> {
        let file = self.file();
        let groups = file.metadata().groups.iter().flat_map(|g| &g.age);
        groups.map(|key| key.recipient.clone()).collect()
    }

    fn opens_with(&self, identities: &Identities) -> bool {
        let plain = self.file().decrypt(identities, Mac::Verify);
        plain.is_ok_and(|plain| plain.to_bytes().unwrap().as_slice() == PLAIN.as_bytes())
    }
}

fn age_form(key: &str) -> String {
    ssh_public_to_age(key).unwrap()
}

#[test]
fn check_says_who_can_read_what_who_misses_and_who_is_too_many() {
    let fleet = Fleet::new();
    let good = fleet.secrets_verb(&["check"]);
    assert_eq!(good.code, 0, "{good:?}");
    let heads = [
        "SECRET", "SOURCE", "STATUS", "CAN READ", "MISSING", "SURPLUS",
    ];
    let first = good.out.lines().next().unwrap();
    assert!(heads.iter().all(|h| first.contains(h)), "{first}");
    let row = good.out.lines().find(|l| l.starts_with("token")).unwrap();
    assert!(
        row.contains(" ok ") && row.contains(BOTH) && row.contains("admin age1"),
        "{row}"
    );
    assert_eq!(
        fleet.readers("token"),
        json!([["admin", true, true], [BOTH, true, true]])
    );

    // Selected, and not among the recipients.
    fleet.secrets("zone=a", "\"0400\"");
    let missing = fleet.secrets_verb(&["check", "token"]);
    assert_eq!(missing.code, 1, "{missing:?}");
    let row = missing
        .out
        .lines()
        .find(|l| l.starts_with("token"))
        .unwrap();
    assert!(
        row.contains(" wrong ") && row.contains("host/db-1"),
        "{row}"
    );
    assert!(missing.err.contains("updatekeys"), "{}", missing.err);
    assert!(
        fleet.readers("token")
            == json!([
                ["admin", true, true],
                ["host/db-1", true, false],
                [BOTH, true, true]
            ])
    );

    // Nobody of ours, among the recipients.
    fleet.secrets("role=web,zone=a", "\"0400\"");
    let (_, stranger) = generate_identity();
    let stranger = stranger.to_string();
    let at = fleet.place.path("fleet/secrets/web.yaml");
    let file = at.to_str().unwrap();
    let added = fleet
        .place
        .ask(&["secrets", "rotate", "--add", &stranger, file]);
    assert_eq!(added.code, 0, "{added:?}");
    let surplus = fleet.secrets_verb(&["check"]);
    assert_eq!(surplus.code, 0, "{surplus:?}");
    let row = surplus
        .out
        .lines()
        .find(|l| l.starts_with("token"))
        .unwrap();
    assert!(row.contains(" surplus "), "{row}");
    assert!(row.contains(&format!("? {}…", &stranger[..20])), "{row}");
    let all = fleet.readers("token");
    assert!(
        all.as_array().unwrap().contains(&json!(["", false, true])),
        "{all}"
    );

    // What sops accepts although nobody vouches for it, by its name.
    let sealed = fleet.read("secrets/web.yaml");
    fleet.write("secrets/web.yaml", &format!("added: null\n{sealed}"));
    let told = fleet.secrets_verb(&["check"]);
    assert!(
        told.err.contains("unprotected-null at added"),
        "{}",
        told.err
    );
    let lints = fleet.check();
    assert!(
        lints[0]["lints"][0]
            .as_str()
            .unwrap()
            .starts_with("unprotected-null"),
        "{lints:#?}"
    );
    let nobody = fleet.secrets_verb(&["check", "tokn"]);
    assert_eq!(nobody.code, 1);
    assert!(
        nobody.err.contains("did you mean `token`?"),
        "{}",
        nobody.err
    );
    for said in [&good, &missing, &surplus, &told] {
        assert!(!said.out.contains("planted") && !said.err.contains("planted"));
    }
}

#[test]
fn one_command_brings_every_file_to_the_hosts_that_are_selected() {
    let fleet = Fleet::new();
    fleet.with_another_file();
    fleet.secrets("role=web", "\"0400\"");
    let text = fleet.read("fleet/secrets.yaml");
    fleet.write(
        "fleet/secrets.yaml",
        &format!("{text}---\napiVersion: trueup/v1alpha1\nkind: Secret\nmetadata: {{name: other}}\nspec:\n  source: {OTHER}\n  key: token\n  hosts: role=db\n"),
    );
    // A dry run needs no private key.
    let (keys, away) = (
        fleet.place.path(".config/sops/age/keys.txt"),
        fleet.place.path("keys.away"),
    );
    std::fs::rename(&keys, &away).unwrap();
    let files = || [fleet.read("secrets/web.yaml"), fleet.read(OTHER)];
    let before = files();
    let dry = fleet.secrets_verb(&["updatekeys", "--all", "--dry-run"]);
    assert_eq!(dry.code, 0, "{dry:?}");
    // web-2 has web-1's key here, so that file is right as it is.
    assert!(
        dry.out.contains("secrets/web.yaml: up to date"),
        "{}",
        dry.out
    );
    assert!(
        dry.out.contains(&format!("{OTHER}: would change")),
        "{}",
        dry.out
    );
    assert!(
        dry.out.contains(&format!("  + {}", age_form(DB))),
        "{}",
        dry.out
    );
    assert!(
        dry.out.contains(&format!("  - {}", age_form(WEB))),
        "{}",
        dry.out
    );
    assert_eq!(files(), before);
    let as_json = fleet.secrets_verb(&["updatekeys", "--all", "--dry-run", "-o", "json"]);
    let all: Value = serde_json::from_str(&as_json.out).unwrap();
    assert_eq!(
        all["files"][0],
        json!({"file": OTHER, "added": [age_form(DB)], "removed": [age_form(WEB)], "written": false})
    );
    std::fs::rename(&away, &keys).unwrap();

    let done = fleet.secrets_verb(&["updatekeys", "--all"]);
    assert_eq!(done.code, 0, "{done:?}");
    let after = files();
    assert!(after[0] == before[0] && after[1] != before[1]);
    // Values are as they were, to the byte; only the data key is sealed to others.
    let values = |text: &str| text.split("sops:").next().unwrap().to_owned();
    assert_eq!(values(&after[1]), values(&before[1]));
    // Who is taken away has read it.
    let told = format!(
        "{} has read the values and can read every older commit",
        age_form(WEB)
    );
    assert!(done.err.contains(&told), "{}", done.err);
    let again = fleet.secrets_verb(&["updatekeys", "--all"]);
    assert!(
        !again.out.contains("changed") && again.err.is_empty(),
        "{again:?}"
    );
    assert_eq!(files(), after);
    let good = fleet.place.ask(&["validate", "fleet"]);
    assert_eq!(good.code, 0, "{good:?}");
}

#[test]
fn a_hosts_key_is_rotated_without_a_moment_in_which_it_cannot_read() {
    let fleet = Fleet::new();
    let (secret, new) = generate_identity();
    let mut new_key = Identities::new();
    new_key
        .add_age(secrecy::ExposeSecret::expose_secret(&secret))
        .unwrap();
    let new = new.to_string();
    let hosts = fleet.read("fleet/hosts.yaml");
    let of_web_1 = |with: &str| hosts.replacen("spec:\n", &format!("spec:\n{with}"), 1);
    let host_key = fleet
        .place
        .ask(&["secrets", "host-key", "host/web-1", "--repo", "fleet"]);
    assert_eq!(host_key.out.trim(), age_form(WEB));

    // Added: `validate` still passes, since the old one opens it; `updatekeys` brings the new one in.
    fleet.write(
        "fleet/hosts.yaml",
        &of_web_1("").replacen(
            "secrets: {module: true}",
            &format!("secrets: {{module: true, ageKeys: [{new}]}}"),
            1,
        ),
    );
    let good = fleet.place.ask(&["validate", "fleet"]);
    assert_eq!(good.code, 0, "{good:?}");
    assert!(!fleet.opens_with(&new_key));
    let done = fleet.secrets_verb(&["updatekeys", "--all"]);
    assert_eq!(done.code, 0, "{done:?}");
    let both = fleet.recipients();
    assert!(
        both.contains(&new) && both.contains(&age_form(WEB)),
        "{both:?}"
    );
    assert!(fleet.opens_with(&new_key));
    let keys = fleet
        .place
        .ask(&["secrets", "host-key", "host/web-1", "--repo", "fleet"]);
    assert_eq!(keys.out.lines().collect::<Vec<_>>(), [&new, &age_form(WEB)]);

    // The host has it: the old one goes, and it is said what it could read.
    let hosts = fleet.read("fleet/hosts.yaml");
    fleet.write("fleet/hosts.yaml", &hosts.replace(WEB, DB));
    let done = fleet.secrets_verb(&["updatekeys", "--all"]);
    assert_eq!(done.code, 0, "{done:?}");
    let now = fleet.recipients();
    assert!(
        now.contains(&new) && !now.contains(&age_form(WEB)),
        "{now:?}"
    );
    let told = format!("{} has read the values", age_form(WEB));
    assert!(
        done.err.contains(&told) && done.err.contains("change the values too"),
        "{}",
        done.err
    );
    assert!(fleet.opens_with(&new_key));
}

#[test]
fn a_sops_yaml_for_people_who_use_sops_says_what_the_manifests_say() {
    let fleet = Fleet::new();
    fleet.with_another_file();
    let said = fleet.secrets_verb(&["sops-yaml"]);
    assert_eq!(said.code, 0, "{said:?}");
    let rules = CreationRules::parse(said.out.as_bytes()).unwrap().unwrap();
    let groups = |path: &str| rules.for_path(path).unwrap().groups.concat();
    let names = |all: Vec<Recipient>| all.iter().map(Recipient::to_string).collect::<Vec<_>>();
    assert_eq!(
        names(groups("secrets/web.yaml")),
        [age_form(WEB), fleet.recipient.to_string()]
    );
    assert_eq!(
        names(groups(OTHER)),
        [age_form(DB), fleet.recipient.to_string()]
    );
    assert!(rules.for_path("secrets/elsewhere.yaml").is_err());
    // Files of no Secret are sealed by it too, where it lies.
    fleet.write(
        ".sops.yaml",
        &format!("{}    - age: {}\n", said.out, fleet.recipient),
    );
    fleet.write("notes.yaml", "a: planted-value-5\n");
    let at = fleet.place.path("fleet/notes.yaml");
    let sealed = fleet
        .place
        .ask(&["secrets", "encrypt", "-i", at.to_str().unwrap()]);
    assert_eq!(sealed.code, 0, "{sealed:?}");
    assert!(fleet.read("notes.yaml").contains(fleet.recipient.as_str()));
    assert!(!fleet.read("notes.yaml").contains("planted"));
}
