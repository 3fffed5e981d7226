//! Users and what they may do: the everyday part of `ACL`.

use crate::testing::server::commands::{Command, Handler, find_name};
use crate::testing::server::process::Ending;
use crate::testing::server::resp::{Answer, Refusal};
use crate::testing::server::session::Context;
use crate::testing::server::users::{DEFAULT, User};

pub(super) fn whoami(context: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    context.out.bulk(context.session.user.as_bytes());
    Ok(())
}

pub(super) fn users(context: &mut Context<'_>, _: &[&[u8]]) -> Answer {
    context.out.bulks(context.process.users.names());
    Ok(())
}

/// All rules hold, or none.
pub(super) fn setuser(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    let name = String::from_utf8_lossy(args[2]).into_owned();
    let mut user = context
        .process
        .users
        .get(&name)
        .cloned()
        .unwrap_or_default();
    for rule in &args[3..] {
        change(&mut user, rule).map_err(|problem| {
            let rule = String::from_utf8_lossy(rule);
            Refusal::from(format!(
                "ERR Error in ACL SETUSER modifier '{rule}': {problem}"
            ))
        })?;
    }
    context.process.users.set(&name, user);
    context.out.ok();
    Ok(())
}

fn change(user: &mut User, rule: &[u8]) -> Result<(), &'static str> {
    let word = String::from_utf8_lossy(rule).to_ascii_lowercase();
    match (word.as_str(), rule) {
        ("on", _) => user.on = true,
        ("off", _) => user.on = false,
        ("nopass", _) => {
            user.open = true;
            user.passwords.clear();
        }
        ("resetpass", _) => {
            user.open = false;
            user.passwords.clear();
        }
        ("reset", _) => *user = User::default(),
        ("allkeys" | "~*", _) => user.all_keys = true,
        ("resetkeys", _) => user.all_keys = false,
        // Channels are not told apart here.
        ("allchannels" | "resetchannels" | "&*", _) => {}
        ("allcommands" | "+@all", _) => user.rule_all(true),
        ("nocommands" | "-@all", _) => user.rule_all(false),
        (_, [b'>', password @ ..]) => {
            user.open = false;
            user.passwords.insert(password.to_vec());
        }
        (_, [b'<', password @ ..]) => {
            if !user.passwords.remove(password) {
                return Err("The password you are trying to remove from the user does not exist");
            }
        }
        (_, [b'+' | b'-', b'@', ..]) => {
            return Err("this in-process server knows no category but @all");
        }
        (_, [b'~' | b'%', ..]) => {
            return Err("this in-process server knows no pattern of keys but ~*");
        }
        (_, [sign @ (b'+' | b'-'), command @ ..]) => {
            let name = find_name(command).ok_or("Unknown command or category name in ACL")?;
            user.rule(name, *sign == b'+');
        }
        _ => return Err("Syntax error"),
    }
    Ok(())
}

pub(super) fn deluser(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    let names = args[2..].iter().map(|name| String::from_utf8_lossy(name));
    let names: Vec<_> = names.collect();
    if names.iter().any(|name| name == DEFAULT) {
        return Err(Refusal::new("ERR The 'default' user cannot be removed"));
    }
    let mut gone = 0;
    for name in &names {
        if !context.process.users.remove(name) {
            continue;
        }
        gone += 1;
        for (id, client) in &mut context.process.clients {
            if client.user != **name {
                continue;
            }
            if *id == context.session.id {
                // Its reply is still written.
                context.session.closing = true;
            } else {
                client.doom.get_or_insert(Ending::Close);
                client.bell.notify_one();
                let server = context.session.shared.id;
                context.keyspace.forget(server, Some(*id));
            }
        }
    }
    context.out.size(gone);
    Ok(())
}

/// What a user is told who may not run a command, or not on its keys.
pub(in crate::testing::server) fn refusal(user: &User, command: &Command) -> Option<Refusal> {
    let name = command.name;
    if !user.may_run(name) {
        let text = format!("NOPERM this user has no permissions to run the '{name}' command");
        return Some(Refusal::from(text));
    }
    let keyed = match command.handler {
        Handler::Data(_) => !KEYLESS.contains(&name),
        Handler::Session(_) => KEYED.contains(&name),
    };
    (keyed && !user.all_keys).then_some(Refusal::new(
        "NOPERM this user has no permissions to access one of the keys used as arguments",
    ))
}

/// Commands on the whole database.
const KEYLESS: [&str; 5] = ["dbsize", "flushdb", "keys", "randomkey", "scan"];
/// Commands of the connection that name keys.
const KEYED: [&str; 9] = [
    "blmove",
    "blmpop",
    "blpop",
    "brpop",
    "brpoplpush",
    "copy",
    "watch",
    "xread",
    "xreadgroup",
];
