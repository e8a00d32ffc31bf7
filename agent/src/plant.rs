//! Bugs on purpose, to see that the tests of activations would notice them. The shipped program is built without the
//! feature `planted`: there each question here is a constant `false`, and no name of a bug is in the binary.

/// What can be wrong on purpose.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(any(test, feature = "planted"), derive(Debug))]
pub(crate) enum Bug {
    /// The profile is set before anybody confirmed.
    ProfileBeforeConfirm,
    /// Any connection may confirm.
    NoNewConnection,
    /// Nothing is synced to the disk.
    SkipFsync,
    /// The way back leads to the profile's generation instead of what was recorded.
    RollbackByGenerationNumber,
    /// The dead-man is not armed.
    DeadManOff,
}

#[cfg(any(test, feature = "planted"))]
mod planted {
    use super::Bug;

    impl Bug {
        fn name(self) -> &'static str {
            match self {
                Self::ProfileBeforeConfirm => "profile_before_confirm",
                Self::NoNewConnection => "no_new_connection",
                Self::SkipFsync => "skip_fsync",
                Self::RollbackByGenerationNumber => "rollback_by_generation_number",
                Self::DeadManOff => "dead_man_off",
            }
        }
    }

    /// Units of systemd have no environment of ours, so a file of the host names the bug.
    #[cfg(not(test))]
    pub(crate) fn is(bug: Bug) -> bool {
        crate::files::text("/etc/trueup-plant") == bug.name()
    }

    #[cfg(test)]
    thread_local! {
        static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
    }

    #[cfg(test)]
    pub(crate) fn is(bug: Bug) -> bool {
        debug_assert!(!bug.name().is_empty());
        PLANTED.get() == Some(bug)
    }

    /// Plants a bug for what this thread does in `f`.
    #[cfg(test)]
    pub(crate) fn with<T>(bug: Bug, f: impl FnOnce() -> T) -> T {
        PLANTED.set(Some(bug));
        let got = f();
        PLANTED.set(None);
        got
    }
}

#[cfg(any(test, feature = "planted"))]
pub(crate) use planted::is;
#[cfg(test)]
pub(crate) use planted::with;

/// Nothing is planted in what ships.
#[cfg(not(any(test, feature = "planted")))]
pub(crate) const fn is(_bug: Bug) -> bool {
    false
}
