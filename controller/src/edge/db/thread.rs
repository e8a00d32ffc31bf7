//! The thread that owns the file: takes commands in order, and puts commits that wait together into one transaction,
//! since a sync to the disk costs more than all else.

use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot, watch};
use trueup_engine::ports::{Change, DbError, DbRev, Entry, Fence, Key, Txn};

use super::offline;
use super::store::{Store, storage};

type Reply<T> = oneshot::Sender<Result<T, DbError>>;

/// Commits that share one sync at most.
const GROUP: usize = 64;

/// What a handle asks for.
#[derive(Debug)]
pub(super) enum Command {
    Get {
        key: Key,
        reply: Reply<Option<Entry>>,
    },
    List {
        prefix: String,
        reply: Reply<(DbRev, Vec<Entry>)>,
    },
    Commit {
        txn: Txn,
        reply: Reply<DbRev>,
    },
    Since {
        prefix: String,
        from: DbRev,
        reply: Reply<(Vec<Change>, DbRev)>,
    },
    RaiseTerm {
        above: u64,
        reply: Reply<Fence>,
    },
    Compact {
        through: DbRev,
        reply: Reply<()>,
    },
    Backup {
        to: PathBuf,
        reply: Reply<()>,
    },
}

/// Until the last handle is gone.
pub(super) fn serve(
    store: Store,
    mut queue: mpsc::Receiver<Command>,
    newest: &watch::Sender<DbRev>,
) {
    let mut next = None;
    while let Some(command) = next.take().or_else(|| queue.blocking_recv()) {
        match command {
            Command::Commit { txn, reply } => {
                let mut group = vec![(txn, reply)];
                while group.len() < GROUP {
                    match queue.try_recv() {
                        Ok(Command::Commit { txn, reply }) => group.push((txn, reply)),
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                commit(&store, group, newest);
            }
            other => answer(&store, other),
        }
    }
}

// A reply that nobody waits for any more is no error anywhere here.
fn answer(store: &Store, command: Command) {
    match command {
        Command::Get { key, reply } => drop(reply.send(store.get(&key))),
        Command::List { prefix, reply } => drop(reply.send(store.list(&prefix))),
        Command::Since {
            prefix,
            from,
            reply,
        } => drop(reply.send(store.since(&prefix, from))),
        Command::RaiseTerm { above, reply } => drop(reply.send(store.raise_term(above))),
        Command::Compact { through, reply } => drop(reply.send(store.compact(through))),
        Command::Backup { to, reply } => drop(reply.send(offline::copy(store, &to))),
        Command::Commit { .. } => {}
    }
}

/// Each transaction in a savepoint of its own: one that is refused takes no other with it. Nobody is answered before
/// all are on the disk.
fn commit(store: &Store, group: Vec<(Txn, Reply<DbRev>)>, newest: &watch::Sender<DbRev>) {
    let sql = |text: &str, attempt| {
        store
            .connection
            .execute_batch(text)
            .map_err(storage(attempt))
    };
    let mut results = Vec::new();
    let whole = (|| {
        sql("BEGIN IMMEDIATE", "beginning a transaction")?;
        for (txn, _) in &group {
            sql("SAVEPOINT one", "beginning a transaction")?;
            let result = store.apply(txn);
            if result.is_err() {
                sql("ROLLBACK TO one", "taking back a transaction")?;
            }
            sql("RELEASE one", "ending a transaction")?;
            results.push(result);
        }
        sql("COMMIT", "committing")
    })();
    if let Err(e) = whole {
        let _not_begun = sql("ROLLBACK", "taking back");
        for (_, reply) in group {
            let _unheard = reply.send(Err(e.clone()));
        }
        return;
    }
    let last = results
        .iter()
        .filter_map(|r| r.as_ref().ok())
        .max()
        .copied();
    for ((_, reply), result) in group.into_iter().zip(results) {
        let _unheard = reply.send(result);
    }
    if let Some(rev) = last {
        newest.send_replace(rev);
        if let Err(e) = store.tidy(rev) {
            tracing::warn!(error = %e, "old history or events were not dropped");
        }
    }
}
