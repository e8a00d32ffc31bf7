//! From a commit to closures that can be delivered. Merges the wants of many hosts, fulfils them, wakes the hosts.
//! It never touches a host.

pub(crate) mod build;
pub(crate) mod evaluate;
pub(crate) mod machines;
pub(crate) mod roots;
pub(crate) mod source;
