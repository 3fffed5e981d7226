//! Publishing and subscribing.

use std::collections::BTreeSet;

use crate::testing::server::commands::keys::matches_glob;
use crate::testing::server::process::Process;
use crate::testing::server::resp::{Answer, Reply};
use crate::testing::server::session::Context;
use crate::testing::server::subscriptions::{Subscriptions, Topic};

pub(super) fn subscribe(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    join(context, Topic::Channel, &args[1..])
}

pub(super) fn psubscribe(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    join(context, Topic::Pattern, &args[1..])
}

pub(super) fn ssubscribe(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    join(context, Topic::Shard, &args[1..])
}

fn join(context: &mut Context<'_>, topic: Topic, names: &[&[u8]]) -> Answer {
    for name in names {
        let Some(subscriptions) = subscriptions(context) else {
            return Ok(());
        };
        subscriptions.add(topic, name);
        let count = subscriptions.count(topic);
        acknowledge(context.out, topic.subscribed(), Some(name), count);
    }
    Ok(())
}

pub(super) fn unsubscribe(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    leave(context, Topic::Channel, &args[1..])
}

pub(super) fn punsubscribe(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    leave(context, Topic::Pattern, &args[1..])
}

pub(super) fn sunsubscribe(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    leave(context, Topic::Shard, &args[1..])
}

/// Without a name, everything of this kind; and an answer even if that is nothing.
fn leave(context: &mut Context<'_>, topic: Topic, names: &[&[u8]]) -> Answer {
    let Some(subscriptions) = subscriptions(context) else {
        return Ok(());
    };
    let all = subscriptions.of(topic).to_vec();
    if names.is_empty() && all.is_empty() {
        let count = subscriptions.count(topic);
        acknowledge(context.out, topic.unsubscribed(), None, count);
        return Ok(());
    }
    let names: Vec<&[u8]> = match names {
        [] => all.iter().map(Vec::as_slice).collect(),
        names => names.to_vec(),
    };
    for name in names {
        if let Some(subscriptions) = self::subscriptions(context) {
            subscriptions.remove(topic, name);
            let count = subscriptions.count(topic);
            acknowledge(context.out, topic.unsubscribed(), Some(name), count);
        }
    }
    Ok(())
}

fn subscriptions<'a>(context: &'a mut Context<'_>) -> Option<&'a mut Subscriptions> {
    let client = context.process.clients.get_mut(&context.session.id)?;
    Some(&mut client.subscriptions)
}

fn acknowledge(out: &mut Reply, what: &str, name: Option<&[u8]>, count: usize) {
    out.push(3);
    out.bulk(what.as_bytes());
    out.bulk_or_null(name);
    out.size(count);
}

pub(super) fn publish(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    let (channel, text) = (args[1], args[2]);
    let mut heard = deliver(context, |subscriptions, message| {
        if subscriptions.has(Topic::Channel, channel) {
            message(&[b"message", channel, text]);
        }
    });
    heard += deliver(context, |subscriptions, message| {
        for pattern in subscriptions.of(Topic::Pattern) {
            if matches_glob(pattern, channel) {
                message(&[b"pmessage", pattern, channel, text]);
            }
        }
    });
    context.out.size(heard);
    Ok(())
}

pub(super) fn spublish(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    let heard = deliver(context, |subscriptions, message| {
        if subscriptions.has(Topic::Shard, args[1]) {
            message(&[b"smessage", args[1], args[2]]);
        }
    });
    context.out.size(heard);
    Ok(())
}

/// Gives every connection the messages that `listen` finds for it; how many there were.
fn deliver(
    context: &mut Context<'_>,
    listen: impl Fn(&Subscriptions, &mut dyn FnMut(&[&[u8]])),
) -> usize {
    let me = context.session.id;
    let mut heard = 0;
    for (id, client) in &mut context.process.clients {
        let mut pushed = Reply::new(client.resp3);
        listen(&client.subscriptions, &mut |message| {
            heard += 1;
            pushed.push(message.len());
            for part in message {
                pushed.bulk(part);
            }
        });
        if pushed.bytes.is_empty() || client.doom.is_some() {
            continue;
        }
        if *id == me {
            // Before the answer to the one who publishes.
            context.out.bytes.append(&mut pushed.bytes);
        } else {
            client.pushed.append(&mut pushed.bytes);
            client.bell.notify_one();
        }
    }
    heard
}

pub(super) fn channels(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    list(context, Topic::Channel, args.get(2).copied());
    Ok(())
}

pub(super) fn shard_channels(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    list(context, Topic::Shard, args.get(2).copied());
    Ok(())
}

fn list(context: &mut Context<'_>, topic: Topic, pattern: Option<&[u8]>) {
    let mut names = heard_of(context.process, topic);
    names.retain(|name| pattern.is_none_or(|pattern| matches_glob(pattern, name)));
    context.out.bulks(names.into_iter());
}

pub(super) fn numpat(context: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    context
        .out
        .size(heard_of(context.process, Topic::Pattern).len());
    Ok(())
}

pub(super) fn numsub(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    count(context, Topic::Channel, &args[2..]);
    Ok(())
}

pub(super) fn shard_numsub(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    count(context, Topic::Shard, &args[2..]);
    Ok(())
}

fn count(context: &mut Context<'_>, topic: Topic, names: &[&[u8]]) {
    context.out.array(names.len() * 2);
    for name in names {
        let clients = context.process.clients.values();
        let listening = clients.filter(|client| client.subscriptions.has(topic, name));
        context.out.bulk(name);
        context.out.size(listening.count());
    }
}

fn heard_of(process: &Process, topic: Topic) -> BTreeSet<Vec<u8>> {
    let clients = process.clients.values();
    let names = clients.flat_map(|client| client.subscriptions.of(topic));
    names.cloned().collect()
}

impl Topic {
    fn subscribed(self) -> &'static str {
        match self {
            Self::Channel => "subscribe",
            Self::Pattern => "psubscribe",
            Self::Shard => "ssubscribe",
        }
    }

    fn unsubscribed(self) -> &'static str {
        match self {
            Self::Channel => "unsubscribe",
            Self::Pattern => "punsubscribe",
            Self::Shard => "sunsubscribe",
        }
    }
}
