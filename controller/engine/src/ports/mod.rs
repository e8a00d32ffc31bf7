//! Every effect of the controller as a small trait. Each has a real edge in `controller/src/edge` and a simulated
//! twin in `fixtures/src/sim`, and both pass the same contract test. Futures need not be `Send`: the engine is the
//! work of one thread; edges that block live on threads of their own behind a handle.

mod alert;
mod db;
mod host;
mod nix;
mod rt;
mod source;

pub use alert::{AlertError, Alerts};
pub use db::{
    Change, Db, DbError, DbRev, Entry, Fence, Guard, Key, MAX_CHANGES, MAX_OPS, MAX_TXN_BYTES,
    MAX_VALUE, Op, Txn, Value,
};
pub use host::{Hosts, ReportStream, Signer, Target, TransportError, TransportFault};
pub use nix::{
    BuildFailure, BuildProgress, BuildUpdate, Builder, EvalFailure, EvalWant, Evaluated, Evaluator,
    MachineState, MachineStatus, PublishError, Publisher, Validity,
};
pub use rt::{Mono, Rt};
pub use source::{Head, Opened, Source, SourceError, Tree};
