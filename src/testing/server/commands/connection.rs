//! The connection itself: greeting, authentication, `CLIENT`; and what this server refuses to run.

use std::time::Duration;

use tokio::time::Instant;

use crate::testing::server::commands::keys::is;
use crate::testing::server::commands::wrong_arity;
use crate::testing::server::process::{Ending, Pause};
use crate::testing::server::resp::{Answer, Refusal, SYNTAX, integer, integer_arg};
use crate::testing::server::session::Context;
use crate::testing::server::storage::DATABASES;
use crate::testing::server::subscriptions::Subscriptions;
use crate::testing::server::users::{DEFAULT, Users};
use crate::testing::server::waiting::Take;

pub(super) fn ping(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    match args {
        // Who reads messages can tell this from one.
        [_] | [_, _] if context.is_listening() => {
            context.out.array(2);
            context.out.bulk(b"pong");
            context.out.bulk(args.get(1).copied().unwrap_or_default());
        }
        [_] => context.out.simple("PONG"),
        [_, text] => context.out.bulk(text),
        _ => return Err(wrong_arity("ping")),
    }
    Ok(())
}

pub(super) fn echo(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    context.out.bulk(args[1]);
    Ok(())
}

pub(super) fn select(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    let index = integer_arg(args[1])?;
    context.session.db = usize::try_from(index)
        .ok()
        .filter(|index| *index < DATABASES)
        .ok_or(Refusal::new("ERR DB index is out of range"))?;
    context.out.ok();
    Ok(())
}

pub(super) fn reset(context: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    context.session.transaction = None;
    context.session.unwatch(context.keyspace);
    if let Some(client) = context.process.clients.get_mut(&context.session.id) {
        client.subscriptions = Subscriptions::default();
    }
    context.session.db = 0;
    context.session.authenticated = context.process.users.is_open();
    DEFAULT.clone_into(&mut context.session.user);
    context.out.resp3 = false;
    set_name(context, b"");
    context.out.simple("RESET");
    Ok(())
}

pub(super) fn auth(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    let (user, password) = match args {
        [_, password] if context.process.users.is_open() => {
            let _ = password;
            return Err(Refusal::new(
                "ERR AUTH <password> called without any password configured for the default \
                 user. Are you sure your configuration is correct?",
            ));
        }
        [_, password] => (b"default".as_slice(), *password),
        [_, user, password] => (*user, *password),
        _ => return Err(SYNTAX),
    };
    authenticate(context, user, password)?;
    context.out.ok();
    Ok(())
}

fn authenticate(context: &mut Context<'_>, user: &[u8], password: &[u8]) -> Answer {
    let user = String::from_utf8_lossy(user);
    if !context.process.users.lets_in(&user, password) {
        return Err(Refusal::new(
            "WRONGPASS invalid username-password pair or user is disabled.",
        ));
    }
    context.session.authenticated = true;
    context.session.user = user.into_owned();
    Ok(())
}

pub(super) fn hello(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    let resp3 = match args.get(1) {
        None => context.out.resp3,
        Some(version) => match integer(version) {
            Some(2) => false,
            Some(3) => true,
            Some(_) => return Err(Refusal::new("NOPROTO unsupported protocol version")),
            None => {
                return Err(Refusal::new(
                    "ERR Protocol version is not an integer or out of range",
                ));
            }
        },
    };
    let mut options = args.get(2..).unwrap_or_default();
    let mut credentials = None;
    let mut name = None;
    loop {
        options = match options {
            [] => break,
            [option, user, password, rest @ ..] if is(option, "auth") => {
                credentials = Some((*user, *password));
                rest
            }
            [option, text, rest @ ..] if is(option, "setname") => {
                name = Some(valid_name(text)?);
                rest
            }
            [option, ..] => {
                let option = String::from_utf8_lossy(option);
                let text = format!("ERR Syntax error in HELLO option '{option}'");
                return Err(Refusal::from(text));
            }
        };
    }
    if let Some((user, password)) = credentials {
        authenticate(context, user, password)?;
    }
    if !context.session.authenticated {
        return Err(Refusal::new(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
             HELLO AUTH <user> <pass> option can be used to authenticate the client and \
             select the RESP protocol version at the same time",
        ));
    }
    if let Some(name) = name {
        set_name(context, name);
    }
    let read_only = context.process.faults.read_only;
    let id = i64::try_from(context.session.id).unwrap_or(i64::MAX);
    let out = &mut *context.out;
    out.resp3 = resp3;
    out.map(7);
    out.bulk(b"server");
    out.bulk(b"redis");
    out.bulk(b"version");
    out.bulk(VERSION.as_bytes());
    out.bulk(b"proto");
    out.integer(if resp3 { 3 } else { 2 });
    out.bulk(b"id");
    out.integer(id);
    out.bulk(b"mode");
    out.bulk(b"standalone");
    out.bulk(b"role");
    out.bulk(if read_only { b"replica" } else { b"master" });
    out.bulk(b"modules");
    out.array(0);
    Ok(())
}

/// The release whose replies these are.
pub(super) const VERSION: &str = "7.0.15";

pub(super) fn client_id(context: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    let id = i64::try_from(context.session.id).unwrap_or(i64::MAX);
    context.out.integer(id);
    Ok(())
}

pub(super) fn client_setname(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    let name = valid_name(args[2])?;
    set_name(context, name);
    context.out.ok();
    Ok(())
}

fn valid_name(name: &[u8]) -> Result<&[u8], Refusal> {
    if name.iter().all(u8::is_ascii_graphic) {
        return Ok(name);
    }
    Err(Refusal::new(
        "ERR Client names cannot contain spaces, newlines or special characters.",
    ))
}

fn set_name(context: &mut Context<'_>, name: &[u8]) {
    if let Some(client) = context.process.clients.get_mut(&context.session.id) {
        client.name = String::from_utf8_lossy(name).into_owned();
    }
}

pub(super) fn client_getname(context: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    let client = context.process.clients.get(&context.session.id);
    let name = client.map(|client| client.name.as_bytes());
    context
        .out
        .bulk_or_null(name.filter(|name| !name.is_empty()));
    Ok(())
}

/// Redis 7.2's, which drivers send on every connection.
pub(super) fn client_setinfo(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    let value = String::from_utf8_lossy(valid_info(args[3])?).into_owned();
    let Some(client) = context.process.clients.get_mut(&context.session.id) else {
        return Ok(());
    };
    if is(args[2], "lib-name") {
        client.library.0 = value;
    } else if is(args[2], "lib-ver") {
        client.library.1 = value;
    } else {
        let option = String::from_utf8_lossy(args[2]);
        return Err(Refusal::from(format!("ERR Unrecognized option '{option}'")));
    }
    context.out.ok();
    Ok(())
}

fn valid_info(value: &[u8]) -> Result<&[u8], Refusal> {
    if value.iter().all(u8::is_ascii_graphic) {
        return Ok(value);
    }
    Err(Refusal::new(
        "ERR the value cannot contain spaces, newlines or special characters.",
    ))
}

pub(super) fn client_no_evict(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    // Nothing is evicted from this server, so there is nothing to be spared.
    if !is(args[2], "on") && !is(args[2], "off") {
        return Err(SYNTAX);
    }
    context.out.ok();
    Ok(())
}

pub(super) fn client_pause(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    let writes_only = match args {
        [_, _, _] => false,
        [_, _, _, mode] if is(mode, "write") => true,
        [_, _, _, mode] if is(mode, "all") => false,
        [_, _, _, _] => return Err(Refusal::new("ERR CLIENT PAUSE mode must be WRITE or ALL")),
        _ => return Err(SYNTAX),
    };
    let millis = integer(args[2]).ok_or(Refusal::new(
        "ERR timeout is not an integer or out of range",
    ))?;
    let millis = u64::try_from(millis).map_err(|_| Refusal::new("ERR timeout is negative"))?;
    let until = Instant::now()
        .checked_add(Duration::from_millis(millis))
        .ok_or(Refusal::new("ERR timeout is out of range"))?;
    context.process.pause = Some(Pause { until, writes_only });
    context.out.ok();
    Ok(())
}

pub(super) fn client_unpause(context: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    context.process.pause = None;
    context.process.ring();
    context.out.ok();
    Ok(())
}

pub(super) fn client_kill(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    if let [_, _, address] = args {
        // The old form: one address, and an error if it is nobody's.
        let filter = KillFilter {
            address: Some(address),
            ..KillFilter::default()
        };
        if kill(context, &filter, false) == 0 {
            return Err(Refusal::new("ERR No such client"));
        }
        context.out.ok();
        return Ok(());
    }
    let (filter, skip_me) = KillFilter::parse(&args[2..], &context.process.users)?;
    let killed = kill(context, &filter, skip_me);
    context.out.size(killed);
    Ok(())
}

/// Which connections `CLIENT KILL` means: those that pass every filter given.
#[derive(Debug, Default)]
struct KillFilter<'a> {
    id: Option<u64>,
    address: Option<&'a [u8]>,
    local: Option<&'a [u8]>,
    kind: Option<Kind>,
    user: Option<&'a [u8]>,
}

/// The kinds of connections that Redis tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Listening,
    /// This server has none of those.
    Replicating,
}

impl<'a> KillFilter<'a> {
    fn parse(options: &[&'a [u8]], users: &Users) -> Result<(Self, bool), Refusal> {
        let mut filter = Self::default();
        let mut skip_me = true;
        for option in options.chunks(2) {
            let [name, value] = option else {
                return Err(SYNTAX);
            };
            if is(name, "id") {
                let id = integer(value).and_then(|id| u64::try_from(id).ok());
                let id = id.filter(|id| *id > 0);
                filter.id = Some(id.ok_or(Refusal::new("ERR client-id should be greater than 0"))?);
            } else if is(name, "addr") {
                filter.address = Some(value);
            } else if is(name, "laddr") {
                filter.local = Some(value);
            } else if is(name, "type") {
                let known = [
                    ("normal", Kind::Normal),
                    ("pubsub", Kind::Listening),
                    ("master", Kind::Replicating),
                    ("replica", Kind::Replicating),
                    ("slave", Kind::Replicating),
                ];
                let kind = known.iter().find(|(name, _)| is(value, name));
                let Some((_, kind)) = kind else {
                    let kind = String::from_utf8_lossy(value);
                    return Err(Refusal::from(format!("ERR Unknown client type '{kind}'")));
                };
                filter.kind = Some(*kind);
            } else if is(name, "user") {
                filter.user = Some(value);
                if users.get(&String::from_utf8_lossy(value)).is_none() {
                    let user = String::from_utf8_lossy(value);
                    return Err(Refusal::from(format!("ERR No such user '{user}'")));
                }
            } else if is(name, "skipme") {
                skip_me = match value {
                    yes if is(yes, "yes") => true,
                    no if is(no, "no") => false,
                    _ => return Err(SYNTAX),
                };
            } else {
                return Err(SYNTAX);
            }
        }
        Ok((filter, skip_me))
    }
}

fn kill(context: &mut Context<'_>, filter: &KillFilter<'_>, skip_me: bool) -> usize {
    let (me, server) = (context.session.id, context.session.shared.id);
    let local = context.process.port_address();
    let mut killed = 0;
    for (id, client) in &mut context.process.clients {
        let kind = match client.subscriptions.is_empty() {
            true => Kind::Normal,
            false => Kind::Listening,
        };
        let passes = client.doom.is_none()
            && filter.kind.is_none_or(|wanted| wanted == kind)
            && filter
                .user
                .is_none_or(|wanted| wanted == client.user.as_bytes())
            && filter.id.is_none_or(|wanted| wanted == *id)
            && filter
                .address
                .is_none_or(|wanted| client.address().as_bytes() == wanted)
            && filter.local.is_none_or(|wanted| local.as_bytes() == wanted)
            && !(skip_me && *id == me);
        if !passes {
            continue;
        }
        killed += 1;
        if *id == me {
            // Its reply is still written.
            context.session.closing = true;
        } else {
            client.doom = Some(Ending::Close);
            client.bell.notify_one();
            context.keyspace.forget(server, Some(*id));
        }
    }
    killed
}

pub(super) fn wait(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    let replicas = integer_arg(args[1])?;
    let millis = integer(args[2]).ok_or(Refusal::new(
        "ERR timeout is not an integer or out of range",
    ))?;
    let millis = u64::try_from(millis).map_err(|_| Refusal::new("ERR timeout is negative"))?;
    if context.process.faults.read_only {
        return Err(Refusal::new(
            "ERR WAIT cannot be used with replica instances. Please also note that since Redis \
             4.0 if a replica is configured to be writable (which is not the default) writes to \
             replicas are just local and are not propagated.",
        ));
    }
    // There are no replicas: either none was asked for, or the wait is in vain.
    if replicas <= 0 || context.session.executing {
        context.out.size(0);
        return Ok(());
    }
    let deadline = match millis {
        0 => None,
        _ => Instant::now().checked_add(Duration::from_millis(millis)),
    };
    context.block(Vec::new(), Take::Nothing, deadline, b":0\r\n".to_vec());
    Ok(())
}

pub(super) fn no_scripts(_: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    Err(Refusal::new("ERR this in-process server runs no scripts"))
}

pub(super) fn no_such_script(_: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    Err(Refusal::new(
        "NOSCRIPT No matching script. Please use EVAL.",
    ))
}
