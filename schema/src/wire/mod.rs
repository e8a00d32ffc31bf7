//! The documents between controller and agent. Bytes are signed, not structures; unknown fields are ignored, and
//! whoever reads one must understand all that it `requires`.

mod farewell;
mod intent;
mod keys;
mod newer;
mod report;
mod secrets;
mod signed;
mod witness;

pub use farewell::Farewell;
pub use intent::{
    Check, Confirm, ConfirmBy, FailedUnits, FailedUnitsPolicy, Goal, INTENT_PAYLOAD_TYPE, Intent,
    MODES_V1, Mode, OnTimeout, Order, Probe, SYSTEM_V1, SystemGoal, system_digest,
};
pub use keys::{KEYS_MAX, KEYS_PAYLOAD_TYPE, KeyList, KeysReport};
pub use report::{
    Activation, AgentInfo, AttemptReport, AttemptState, BootReport, ComponentReport, FailedUnit,
    Hold, Identity, OTHER_MANAGERS, OfferReply, OtherManager, REPORT_PAYLOAD_TYPE, Report, Running,
    Stage,
};
pub use secrets::{
    SECRETS_BYTES_MAX, SECRETS_V1, SecretFile, SecretPlace, SecretTemplate, SecretsGoal,
    secrets_digest,
};
pub use signed::{Keys, Signature, Signed, SignedError, key_text, pae};
pub use witness::{
    Challenge, WATCH_KEYS_MAX, WATCH_PAYLOAD_TYPE, WITNESS_KEY_TYPE, WITNESS_NAMESPACE, WITNESS_V1,
    Watch, WatchReport, Witness, testify,
};

/// The format that this release writes. It reads this one and the two before.
pub const FORMAT: u32 = 1;

/// An intent or a report is at most this long: it is read with this limit before it is parsed.
pub const MAX_DOCUMENT: usize = 1 << 20;

/// A line of a stream (a log line, a frame of a session) is at most this long.
pub const MAX_LINE: usize = 64 << 10;
