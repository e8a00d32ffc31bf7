//! Who is at the other end of the socket: the kernel's word for the user id, `/etc/passwd` for the name.
//! No name service is asked.

use trueup_schema::status::{Actor, ActorKind};

/// `/etc/passwd` of a machine with network users in a name service is short; a longer file is not read.
const PASSWD_MAX: u64 = 1 << 20;

/// A person on the socket.
#[must_use]
pub fn of_uid(uid: u32) -> Actor {
    let name = passwd()
        .and_then(|text| name_in(&text, uid))
        .unwrap_or_else(|| format!("uid {uid}"));
    Actor {
        kind: ActorKind::Person,
        uid: Some(uid),
        name,
        from: "socket".to_owned(),
    }
}

fn passwd() -> Option<String> {
    let path = "/etc/passwd";
    (std::fs::metadata(path).ok()?.len() <= PASSWD_MAX)
        .then(|| std::fs::read_to_string(path).ok())?
}

fn name_in(passwd: &str, uid: u32) -> Option<String> {
    let uid = uid.to_string();
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.chars().take(64).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_that_of_the_user_id() {
        let text = "root:x:0:0:root:/root:/bin/sh\nana:x:1000:100::/home/ana:/bin/sh\n";
        assert_eq!(name_in(text, 1000).as_deref(), Some("ana"));
        assert_eq!(name_in(text, 100), None);
    }
}
