//! `MULTI`, `EXEC` and `WATCH`.

use crate::testing::server::database::Key;
use crate::testing::server::resp::{Answer, Refusal};
use crate::testing::server::session::{Context, Transaction, Watch};

pub(super) fn multi(context: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    if context.session.transaction.is_some() {
        return Err(Refusal::new("ERR MULTI calls can not be nested"));
    }
    context.session.transaction = Some(Transaction::default());
    context.out.ok();
    Ok(())
}

pub(super) fn exec(context: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    let Some(transaction) = context.session.transaction.take() else {
        return Err(Refusal::new("ERR EXEC without MULTI"));
    };
    let untouched = context.session.watched.iter().all(|watch| {
        context.keyspace.databases[watch.db].revision(&watch.key) == Some(watch.revision)
    });
    context.session.unwatch(context.keyspace);
    if transaction.spoiled {
        return Err(Refusal::new(
            "EXECABORT Transaction discarded because of previous errors.",
        ));
    }
    if !untouched {
        context.out.null_array();
        return Ok(());
    }
    context.out.array(transaction.queue.len());
    context.session.executing = true;
    for (command, args) in &transaction.queue {
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        context.run(command, &args);
    }
    context.session.executing = false;
    Ok(())
}

pub(super) fn discard(context: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    if context.session.transaction.take().is_none() {
        return Err(Refusal::new("ERR DISCARD without MULTI"));
    }
    context.session.unwatch(context.keyspace);
    context.out.ok();
    Ok(())
}

pub(super) fn watch(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    if context.session.transaction.is_some() {
        return Err(Refusal::new("ERR WATCH inside MULTI is not allowed"));
    }
    let db = context.session.db;
    for key in &args[1..] {
        // Watching a key once more must not forget that it has changed since the first time.
        let known = |watch: &Watch| watch.db == db && &*watch.key == *key;
        if !context.session.watched.iter().any(known) {
            let revision = context.database().watch(key);
            let key = Key::from(*key);
            context.session.watched.push(Watch { db, key, revision });
        }
    }
    context.out.ok();
    Ok(())
}

pub(super) fn unwatch(context: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    context.session.unwatch(context.keyspace);
    context.out.ok();
    Ok(())
}
