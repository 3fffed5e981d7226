//! What the server tells about itself.

use std::fmt::Write as _;

use crate::testing::server::commands::connection::VERSION;
use crate::testing::server::commands::keys::{is, matches_glob};
use crate::testing::server::commands::{Command, WRITES, all};
use crate::testing::server::process::Client;
use crate::testing::server::resp::{Answer, Refusal, Reply, SYNTAX, integer};
use crate::testing::server::session::Context;
use crate::testing::server::subscriptions::Topic;

pub(super) fn role(context: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    let out = &mut *context.out;
    if context.process.faults.read_only {
        out.array(5);
        out.bulk(b"slave");
        out.bulk(b"127.0.0.1");
        out.integer(0);
        out.bulk(b"connected");
        out.integer(0);
    } else {
        out.array(3);
        out.bulk(b"master");
        out.integer(0);
        out.array(0);
    }
    Ok(())
}

pub(super) fn time(context: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    let micros = context.keyspace.unix_micros();
    let parts = [micros / 1_000_000, micros % 1_000_000].map(|part| part.to_string());
    context.out.bulks(parts.iter());
    Ok(())
}

pub(super) fn info(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    let all = args.len() == 1
        || args[1..].iter().any(|name| {
            ["all", "default", "everything"]
                .iter()
                .any(|any| is(name, any))
        });
    let mut text = String::new();
    for (name, section) in sections(context) {
        if all || args[1..].iter().any(|wanted| is(wanted, name)) {
            if !text.is_empty() {
                text += "\r\n";
            }
            let _ = write!(text, "# {name}\r\n{section}");
        }
    }
    context.out.text(&text);
    Ok(())
}

fn sections(context: &Context<'_>) -> [(&'static str, String); 6] {
    let (process, shared) = (&*context.process, &context.session.shared);
    let faults = &process.faults;
    let server = format!(
        "redis_version:{VERSION}\r\n\
         redis_mode:standalone\r\n\
         server_name:{}\r\n\
         process_id:{}\r\n\
         run_id:{:020x}{:020x}\r\n\
         tcp_port:{}\r\n\
         uptime_in_seconds:{}\r\n",
        shared.name,
        std::process::id(),
        shared.id,
        process.lives,
        process.port_number(),
        process.started.elapsed().as_secs(),
    );
    let blocked: usize = (context.keyspace.databases.iter())
        .map(|database| database.waiting.len())
        .sum();
    let clients = format!(
        "connected_clients:{}\r\nblocked_clients:{blocked}\r\n",
        process.clients.len()
    );
    let persistence = format!("loading:{}\r\n", u8::from(faults.loading));
    let stats = format!(
        "total_connections_received:{}\r\ntotal_commands_processed:{}\r\n",
        process.accepted, process.commands
    );
    let replication = if faults.read_only {
        "role:slave\r\nmaster_host:127.0.0.1\r\nmaster_port:0\r\nmaster_link_status:up\r\n\
         slave_read_only:1\r\nconnected_slaves:0\r\nmaster_repl_offset:0\r\n"
            .to_owned()
    } else {
        "role:master\r\nconnected_slaves:0\r\nmaster_repl_offset:0\r\n".to_owned()
    };
    let mut keyspace = String::new();
    for (index, database) in context.keyspace.databases.iter().enumerate() {
        if database.len() > 0 {
            let _ = write!(
                keyspace,
                "db{index}:keys={},expires={},avg_ttl=0\r\n",
                database.len(),
                database.expiring()
            );
        }
    }
    [
        ("Server", server),
        ("Clients", clients),
        ("Persistence", persistence),
        ("Stats", stats),
        ("Replication", replication),
        ("Keyspace", keyspace),
    ]
}

pub(super) fn config_get(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    let mut found: Vec<(&[u8], &str)> = Vec::new();
    for (name, value) in CONFIG {
        for pattern in &args[2..] {
            // A setting asked for by its name is called what it was called.
            if is(pattern, name) {
                found.push((pattern, value));
            } else if matches_glob(&pattern.to_ascii_lowercase(), name.as_bytes()) {
                found.push((name.as_bytes(), value));
            } else {
                continue;
            }
            break;
        }
    }
    context.out.map(found.len());
    for (name, value) in found {
        context.out.bulk(name);
        context.out.bulk(value.as_bytes());
    }
    Ok(())
}

/// The settings clients ask for, with the values that are true here.
const CONFIG: &[(&str, &str)] = &[
    ("appendonly", "no"),
    ("databases", "16"),
    ("maxmemory", "0"),
    ("maxmemory-policy", "noeviction"),
    ("proto-max-bulk-len", "536870912"),
    ("save", ""),
    ("timeout", "0"),
];

pub(super) fn client_info(context: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    context.describe();
    let id = context.session.id;
    let line = client_line(context, id);
    context.out.text(&line);
    Ok(())
}

pub(super) fn client_list(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    context.describe();
    let mut ids: Vec<u64> = context.process.clients.keys().copied().collect();
    match args {
        [_, _] => {}
        [_, _, option, kind] if is(option, "type") => {
            let known = ["normal", "master", "replica", "slave", "pubsub"];
            if !known.iter().any(|known| is(kind, known)) {
                let kind = String::from_utf8_lossy(kind);
                return Err(Refusal::from(format!("ERR Unknown client type '{kind}'")));
            }
            let clients = &context.process.clients;
            let listens = |id: &u64| clients.get(id).is_some_and(|c| !c.subscriptions.is_empty());
            match () {
                () if is(kind, "normal") => ids.retain(|id| !listens(id)),
                () if is(kind, "pubsub") => ids.retain(listens),
                () => ids.clear(),
            }
        }
        [_, _, option, wanted @ ..] if is(option, "id") && !wanted.is_empty() => {
            let wanted = wanted
                .iter()
                .map(|id| integer(id).and_then(|id| u64::try_from(id).ok()))
                .collect::<Option<Vec<u64>>>()
                .ok_or(Refusal::new("ERR Invalid client ID"))?;
            ids.retain(|id| wanted.contains(id));
        }
        _ => return Err(SYNTAX),
    }
    let text: String = ids.iter().map(|id| client_line(context, *id)).collect();
    context.out.text(&text);
    Ok(())
}

fn client_line(context: &Context<'_>, id: u64) -> String {
    let process = &*context.process;
    let Some(client) = process.clients.get(&id) else {
        return String::new();
    };
    let Client {
        name,
        library,
        db,
        command,
        watched,
        subscriptions,
        user,
        ..
    } = client;
    let mut flags = String::new();
    if !subscriptions.is_empty() {
        flags.push('P');
    }
    if client.queued.is_some() {
        flags.push('x');
    }
    if flags.is_empty() {
        flags.push('N');
    }
    format!(
        "id={id} addr={} laddr={} fd=0 name={name} age={} idle={} flags={flags} db={db} sub={} \
         psub={} ssub={} multi={} watch={watched} cmd={command} user={user} lib-name={} lib-ver={} \
         resp={}\n",
        client.address(),
        process.port_address(),
        client.since.elapsed().as_secs(),
        client.active.elapsed().as_secs(),
        subscriptions.of(Topic::Channel).len(),
        subscriptions.of(Topic::Pattern).len(),
        subscriptions.of(Topic::Shard).len(),
        client.queued.map_or("-1".to_owned(), |n| n.to_string()),
        library.0,
        library.1,
        if client.resp3 { 3 } else { 2 },
    )
}

pub(super) fn command(context: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    let commands: Vec<_> = commands().collect();
    context.out.array(commands.len());
    for command in commands {
        describe(command, context.out);
    }
    Ok(())
}

pub(super) fn command_count(context: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    context.out.size(commands().count());
    Ok(())
}

pub(super) fn command_info(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    context.out.array(args.len() - 2);
    for name in &args[2..] {
        match commands().find(|command| is(name, command.name)) {
            Some(command) => describe(command, context.out),
            None => context.out.null_array(),
        }
    }
    Ok(())
}

/// No documentation: what an interactive client makes of it is plain input without hints.
pub(super) fn command_docs(context: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    context.out.map(0);
    Ok(())
}

fn commands() -> impl Iterator<Item = &'static Command> {
    all().iter().filter(|command| !command.name.contains('|'))
}

/// Name, arity and the one flag a client decides by; no key positions.
fn describe(command: &Command, out: &mut Reply) {
    let kind = if command.flags & WRITES != 0 {
        "write"
    } else {
        "readonly"
    };
    out.array(6);
    out.bulk(command.name.as_bytes());
    out.integer(i64::from(command.arity));
    out.set(1);
    out.simple(kind);
    for _ in 0..3 {
        out.integer(0);
    }
}
