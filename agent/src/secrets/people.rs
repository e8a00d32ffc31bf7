//! Users and groups by name: from `/etc/passwd` and `/etc/group`, then the host's `getent`. No name service in here: a
//! static program would load the host's modules.

use std::collections::BTreeMap;
use std::time::Duration;

use trueup_schema::kind::Owner;

use super::SecretsError;
use crate::{exec, files};

/// `getent` may ask a server.
const GETENT_LIMIT: Duration = Duration::from_secs(10);

/// Whose a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Who {
    pub uid: u32,
    pub gid: u32,
    /// Names that were not known yet: root's until they are.
    pub pending: Option<(Owner, Option<Owner>)>,
}

/// The host's people.
#[derive(Debug, Default)]
pub(super) struct People {
    /// uid and primary gid.
    users: BTreeMap<String, (u32, u32)>,
    groups: BTreeMap<String, u32>,
}

impl People {
    pub fn read() -> Self {
        Self::parse(&files::text("/etc/passwd"), &files::text("/etc/group"))
    }

    fn parse(passwd: &str, group: &str) -> Self {
        Self {
            users: passwd.lines().filter_map(user).collect(),
            groups: group.lines().filter_map(group_of).collect(),
        }
    }

    fn user(&self, name: &str) -> Option<(u32, u32)> {
        let known = self.users.get(name).copied();
        known.or_else(|| user(&getent("passwd", name)?).map(|(_, ids)| ids))
    }

    fn group(&self, name: &str) -> Option<u32> {
        let known = self.groups.get(name).copied();
        known.or_else(|| group_of(&getent("group", name)?).map(|(_, id)| id))
    }

    /// The numbers of an owner and a group. `later`: who is not there may still come, and it is root's until then.
    pub fn find(
        &self,
        of: &str,
        owner: &Owner,
        group: Option<&Owner>,
        later: bool,
    ) -> Result<Who, SecretsError> {
        let unknown = |what, name: &str| SecretsError::Owner {
            what,
            name: name.to_owned(),
            of: of.to_owned(),
        };
        let found = (|| {
            let (uid, primary) = match owner {
                // A number without a name has no group of its own.
                Owner::Id(uid) => (*uid, self.primary(*uid)),
                Owner::Name(name) => self.user(name).ok_or_else(|| unknown("owner", name))?,
            };
            let gid = match group {
                None => primary,
                Some(Owner::Id(gid)) => *gid,
                Some(Owner::Name(name)) => {
                    self.group(name).ok_or_else(|| unknown("group", name))?
                }
            };
            Ok(Who {
                uid,
                gid,
                pending: None,
            })
        })();
        match found {
            Err(_) if later => Ok(Who {
                uid: 0,
                gid: 0,
                pending: Some((owner.clone(), group.cloned())),
            }),
            other => other,
        }
    }

    fn primary(&self, uid: u32) -> u32 {
        let known = self.users.values().find(|(u, _)| *u == uid);
        known.map_or(0, |(_, gid)| *gid)
    }
}

fn user(line: &str) -> Option<(String, (u32, u32))> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    Some((name, (uid, fields.next()?.parse().ok()?)))
}

fn group_of(line: &str) -> Option<(String, u32)> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    Some((name, fields.nth(1)?.parse().ok()?))
}

fn getent(database: &str, name: &str) -> Option<String> {
    // A name that the manifests' reader took begins with a letter or `_`, so it is no option.
    let getent = exec::tool("getent").ok()?;
    let out = exec::run(&getent, &[database, name], GETENT_LIMIT).ok()?;
    (out.code == 0).then(|| out.stdout.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_the_owners_own_unless_named() {
        let people = People::parse(
            "root:x:0:0::/:\napp:x:900:901::/:",
            "root:x:0:\nkeys:x:96:app",
        );
        let app = Owner::Name("app".to_owned());
        let who = people.find("s", &app, None, false).expect("known");
        assert_eq!((who.uid, who.gid), (900, 901));
        let keys = Owner::Name("keys".to_owned());
        let who = people
            .find("s", &Owner::Id(7), Some(&keys), false)
            .expect("known");
        assert_eq!((who.uid, who.gid), (7, 96));
    }

    #[test]
    fn an_unknown_owner_is_refused_unless_the_system_may_make_him() {
        let people = People::parse("root:x:0:0::/:", "root:x:0:");
        let nobody = Owner::Name("nobody-of-this-name".to_owned());
        let error = people
            .find("db", &nobody, None, false)
            .expect_err("refused");
        assert!(error.to_string().contains("`nobody-of-this-name` of `db`"));
        let who = people.find("db", &nobody, None, true).expect("later");
        assert_eq!((who.uid, who.gid), (0, 0));
        assert!(who.pending.is_some());
    }
}
