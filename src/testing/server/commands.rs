//! The commands: one table with what decides about a command before it runs, and their code.

pub(super) mod acl;
mod bits;
mod connection;
mod expiry;
mod hashes;
mod introspection;
mod keys;
mod lists;
mod moves;
mod pubsub;
mod ranges;
mod sampling;
mod sets;
mod sorted_sets;
mod stream_groups;
mod stream_reads;
mod streams;
mod strings;
mod transactions;

use std::collections::HashMap;
use std::sync::LazyLock;

use super::database::Database;
use super::resp::{Answer, Refusal, Reply};
use super::session::Context;
pub(super) use stream_reads::Reading;

/// One command, or one subcommand (`client|kill`).
#[derive(Debug)]
pub(super) struct Command {
    pub(super) name: &'static str,
    /// How many arguments, the name included; negative: at least so many.
    pub(super) arity: i32,
    pub(super) flags: u8,
    pub(super) handler: Handler,
}

/// A command's code.
#[derive(Debug)]
pub(super) enum Handler {
    /// Looks at nothing but the selected database.
    Data(fn(&mut Database, &[&[u8]], &mut Reply) -> Answer),
    /// Concerns the connection, the server, or several databases.
    Session(fn(&mut Context<'_>, &[&[u8]]) -> Answer),
}

/// May change data: refused by a replica, held by `CLIENT PAUSE WRITE`.
pub(super) const WRITES: u8 = 1;
/// May need more memory.
pub(super) const GROWS: u8 = 2;
/// Needs the dataset to be loaded.
pub(super) const LOADED: u8 = 4;
/// Allowed before authentication.
pub(super) const UNAUTHENTICATED: u8 = 8;
/// Executed at once inside `MULTI`.
pub(super) const UNQUEUED: u8 = 16;
/// Has subcommands.
pub(super) const CONTAINS: u8 = 32;

/// The command that `args` (not empty) names.
pub(super) fn lookup(args: &[&[u8]]) -> Result<&'static Command, Refusal> {
    let mut name = [0; LONGEST_NAME];
    let found = find(&mut name, args[0], None).ok_or_else(|| unknown(args))?;
    let command = match args.get(1) {
        Some(sub) if found.flags & CONTAINS != 0 => find(&mut name, args[0], Some(sub))
            .ok_or_else(|| unknown_subcommand(found.name, sub))?,
        _ => found,
    };
    let given = i32::try_from(args.len()).unwrap_or(i32::MAX);
    let fits = match command.arity {
        exact @ 0.. => given == exact,
        least => given >= -least,
    };
    if fits {
        Ok(command)
    } else {
        Err(wrong_arity(command.name))
    }
}

/// A command or subcommand (`client|kill`) by its name.
fn find_name(name: &[u8]) -> Option<&'static str> {
    find(&mut [0; LONGEST_NAME], name, None).map(|command| command.name)
}

pub(super) fn wrong_arity(name: &str) -> Refusal {
    Refusal::from(format!(
        "ERR wrong number of arguments for '{name}' command"
    ))
}

/// All commands, subcommands included.
pub(super) fn all() -> &'static [Command] {
    TABLE
}

/// Finds a command under its lower-cased name; `name` is room to write that.
fn find(
    name: &mut [u8; LONGEST_NAME],
    command: &[u8],
    sub: Option<&[u8]>,
) -> Option<&'static Command> {
    let mut length = command.len();
    name.get_mut(..length)?.copy_from_slice(command);
    if let Some(sub) = sub {
        *name.get_mut(length)? = b'|';
        name.get_mut(length + 1..length + 1 + sub.len())?
            .copy_from_slice(sub);
        length += 1 + sub.len();
    }
    name[..length].make_ascii_lowercase();
    INDEX.get(&name[..length]).copied()
}

fn unknown(args: &[&[u8]]) -> Refusal {
    let shown = |text: &[u8], room: usize| {
        String::from_utf8_lossy(&text[..text.len().min(room)]).into_owned()
    };
    let mut text = format!(
        "ERR unknown command '{}', with args beginning with: ",
        shown(args[0], 128)
    );
    let mut listed = 0;
    for arg in &args[1..] {
        if listed >= 128 {
            break;
        }
        let arg = format!("'{}' ", shown(arg, 128 - listed));
        listed += arg.len();
        text += &arg;
    }
    Refusal::from(text)
}

fn unknown_subcommand(command: &str, sub: &[u8]) -> Refusal {
    let sub = String::from_utf8_lossy(&sub[..sub.len().min(128)]);
    Refusal::from(format!(
        "ERR unknown subcommand '{sub}'. Try {} HELP.",
        command.to_uppercase()
    ))
}

const LONGEST_NAME: usize = 32;

static INDEX: LazyLock<HashMap<&'static [u8], &'static Command>> = LazyLock::new(|| {
    TABLE
        .iter()
        .map(|command| (command.name.as_bytes(), command))
        .collect()
});

type Run = fn(&mut Database, &[&[u8]], &mut Reply) -> Answer;
type RunSession = fn(&mut Context<'_>, &[&[u8]]) -> Answer;

const fn read(name: &'static str, arity: i32, run: Run) -> Command {
    data(name, arity, LOADED, run)
}

const fn write(name: &'static str, arity: i32, run: Run) -> Command {
    data(name, arity, LOADED | WRITES, run)
}

const fn grow(name: &'static str, arity: i32, run: Run) -> Command {
    data(name, arity, LOADED | WRITES | GROWS, run)
}

const fn data(name: &'static str, arity: i32, flags: u8, run: Run) -> Command {
    Command {
        name,
        arity,
        flags,
        handler: Handler::Data(run),
    }
}

const fn session(name: &'static str, arity: i32, flags: u8, run: RunSession) -> Command {
    Command {
        name,
        arity,
        flags,
        handler: Handler::Session(run),
    }
}

const fn container(name: &'static str) -> Command {
    // At least a subcommand, which is then what runs.
    session(name, -2, CONTAINS, |_, _| Ok(()))
}

// Arity and flags as `COMMAND INFO` of Redis 7.0 tells them.
static TABLE: &[Command] = &[
    session("auth", -2, UNAUTHENTICATED, connection::auth),
    session("echo", 2, 0, connection::echo),
    session("hello", -1, UNAUTHENTICATED, connection::hello),
    session("ping", -1, LOADED, connection::ping),
    container("acl"),
    session("acl|deluser", -3, 0, acl::deluser),
    session("acl|setuser", -3, 0, acl::setuser),
    session("acl|users", 2, 0, acl::users),
    session("acl|whoami", 2, 0, acl::whoami),
    session("psubscribe", -2, 0, pubsub::psubscribe),
    session("publish", 3, 0, pubsub::publish),
    container("pubsub"),
    session("pubsub|channels", -2, 0, pubsub::channels),
    session("pubsub|numpat", 2, 0, pubsub::numpat),
    session("pubsub|numsub", -2, 0, pubsub::numsub),
    session("pubsub|shardchannels", -2, 0, pubsub::shard_channels),
    session("pubsub|shardnumsub", -2, 0, pubsub::shard_numsub),
    session("punsubscribe", -1, 0, pubsub::punsubscribe),
    session("spublish", 3, 0, pubsub::spublish),
    session("ssubscribe", -2, 0, pubsub::ssubscribe),
    session("subscribe", -2, 0, pubsub::subscribe),
    session("sunsubscribe", -1, 0, pubsub::sunsubscribe),
    session("unsubscribe", -1, 0, pubsub::unsubscribe),
    session("reset", 1, UNAUTHENTICATED | UNQUEUED, connection::reset),
    session("select", 2, 0, connection::select),
    container("client"),
    session("client|getname", 2, 0, connection::client_getname),
    session("client|id", 2, 0, connection::client_id),
    session("client|info", 2, 0, introspection::client_info),
    session("client|kill", -3, 0, connection::client_kill),
    session("client|list", -2, 0, introspection::client_list),
    session("client|no-evict", 3, 0, connection::client_no_evict),
    session("client|pause", -3, 0, connection::client_pause),
    session("client|setinfo", 4, 0, connection::client_setinfo),
    session("client|setname", 3, 0, connection::client_setname),
    session("client|unpause", 2, 0, connection::client_unpause),
    session("command", -1, CONTAINS, introspection::command),
    session("command|count", 2, 0, introspection::command_count),
    session("command|docs", -2, 0, introspection::command_docs),
    session("command|info", -2, 0, introspection::command_info),
    container("config"),
    session("config|get", -3, 0, introspection::config_get),
    session("info", -1, 0, introspection::info),
    session("role", 1, 0, introspection::role),
    session("time", 1, 0, introspection::time),
    session("wait", 3, LOADED, connection::wait),
    session("eval", -3, LOADED, connection::no_scripts),
    session("eval_ro", -3, LOADED, connection::no_scripts),
    session("evalsha", -3, LOADED, connection::no_such_script),
    session("evalsha_ro", -3, LOADED, connection::no_such_script),
    session("fcall", -3, LOADED, connection::no_scripts),
    session("fcall_ro", -3, LOADED, connection::no_scripts),
    session("function", -2, LOADED, connection::no_scripts),
    session("script", -2, LOADED, connection::no_scripts),
    session("discard", 1, UNQUEUED, transactions::discard),
    session("exec", 1, UNQUEUED, transactions::exec),
    session("multi", 1, UNQUEUED, transactions::multi),
    session("unwatch", 1, 0, transactions::unwatch),
    session("watch", -2, UNQUEUED, transactions::watch),
    session("flushall", -1, LOADED | WRITES, keys::flushall),
    write("flushdb", -1, keys::flushdb),
    read("dbsize", 1, keys::dbsize),
    session("copy", -3, LOADED | WRITES | GROWS, keys::copy),
    write("del", -2, keys::del),
    read("exists", -2, keys::exists),
    read("keys", 2, keys::keys),
    read("randomkey", 1, keys::randomkey),
    write("rename", 3, keys::rename),
    write("renamenx", 3, keys::renamenx),
    read("scan", -2, keys::scan),
    read("touch", -2, keys::exists),
    read("type", 2, keys::kind),
    write("unlink", -2, keys::del),
    write("expire", -3, expiry::expire),
    write("expireat", -3, expiry::expireat),
    write("pexpire", -3, expiry::pexpire),
    write("pexpireat", -3, expiry::pexpireat),
    read("expiretime", 2, expiry::expiretime),
    read("pexpiretime", 2, expiry::pexpiretime),
    write("persist", 2, expiry::persist),
    read("pttl", 2, expiry::pttl),
    read("ttl", 2, expiry::ttl),
    grow("append", 3, strings::append),
    read("bitcount", -2, bits::bitcount),
    grow("decr", 2, strings::decr),
    grow("decrby", 3, strings::decrby),
    read("get", 2, strings::get),
    write("getdel", 2, strings::getdel),
    write("getex", -2, strings::getex),
    read("getbit", 3, bits::getbit),
    read("getrange", 4, strings::getrange),
    grow("getset", 3, strings::getset),
    grow("incr", 2, strings::incr),
    grow("incrby", 3, strings::incrby),
    grow("incrbyfloat", 3, strings::incrbyfloat),
    read("mget", -2, strings::mget),
    grow("mset", -3, strings::mset),
    grow("msetnx", -3, strings::msetnx),
    grow("psetex", 4, strings::psetex),
    grow("set", -3, strings::set),
    grow("setbit", 4, bits::setbit),
    grow("setex", 4, strings::setex),
    grow("setnx", 3, strings::setnx),
    grow("setrange", 4, strings::setrange),
    read("strlen", 2, strings::strlen),
    session("blmove", 6, LOADED | WRITES | GROWS, moves::blmove),
    session("blmpop", -5, LOADED | WRITES, moves::blmpop),
    session("blpop", -3, LOADED | WRITES, moves::blpop),
    session("brpop", -3, LOADED | WRITES, moves::brpop),
    session("brpoplpush", 4, LOADED | WRITES | GROWS, moves::brpoplpush),
    read("lindex", 3, lists::lindex),
    grow("linsert", 5, lists::linsert),
    read("llen", 2, lists::llen),
    grow("lmove", 5, moves::lmove),
    write("lmpop", -4, moves::lmpop),
    write("lpop", -2, lists::lpop),
    read("lpos", -3, lists::lpos),
    grow("lpush", -3, lists::lpush),
    grow("lpushx", -3, lists::lpushx),
    read("lrange", 4, lists::lrange),
    write("lrem", 4, lists::lrem),
    grow("lset", 4, lists::lset),
    write("ltrim", 4, lists::ltrim),
    write("rpop", -2, lists::rpop),
    grow("rpoplpush", 3, moves::rpoplpush),
    grow("rpush", -3, lists::rpush),
    grow("rpushx", -3, lists::rpushx),
    grow("sadd", -3, sets::sadd),
    read("scard", 2, sets::scard),
    read("sdiff", -2, sets::sdiff),
    grow("sdiffstore", -3, sets::sdiffstore),
    read("sinter", -2, sets::sinter),
    read("sintercard", -3, sets::sintercard),
    grow("sinterstore", -3, sets::sinterstore),
    read("sismember", 3, sets::sismember),
    read("smembers", 2, sets::smembers),
    read("smismember", -3, sets::smismember),
    write("smove", 4, sets::smove),
    write("spop", -2, sets::spop),
    read("srandmember", -2, sets::srandmember),
    write("srem", -3, sets::srem),
    read("sscan", -3, sets::sscan),
    read("sunion", -2, sets::sunion),
    grow("sunionstore", -3, sets::sunionstore),
    write("hdel", -3, hashes::hdel),
    read("hexists", 3, hashes::hexists),
    read("hget", 3, hashes::hget),
    read("hgetall", 2, hashes::hgetall),
    grow("hincrby", 4, hashes::hincrby),
    grow("hincrbyfloat", 4, hashes::hincrbyfloat),
    read("hkeys", 2, hashes::hkeys),
    read("hlen", 2, hashes::hlen),
    read("hmget", -3, hashes::hmget),
    grow("hmset", -4, hashes::hmset),
    read("hrandfield", -2, hashes::hrandfield),
    read("hscan", -3, hashes::hscan),
    grow("hset", -4, hashes::hset),
    grow("hsetnx", 4, hashes::hsetnx),
    read("hstrlen", 3, hashes::hstrlen),
    read("hvals", 2, hashes::hvals),
    grow("zadd", -4, sorted_sets::zadd),
    read("zcard", 2, sorted_sets::zcard),
    read("zcount", 4, ranges::zcount),
    grow("zincrby", 4, sorted_sets::zincrby),
    read("zlexcount", 4, ranges::zlexcount),
    read("zmscore", -3, sorted_sets::zmscore),
    write("zpopmax", -2, sorted_sets::zpopmax),
    write("zpopmin", -2, sorted_sets::zpopmin),
    read("zrandmember", -2, sorted_sets::zrandmember),
    read("zrange", -4, ranges::zrange),
    read("zrangebylex", -4, ranges::zrangebylex),
    read("zrangebyscore", -4, ranges::zrangebyscore),
    read("zrank", 3, sorted_sets::zrank),
    write("zrem", -3, sorted_sets::zrem),
    write("zremrangebylex", 4, ranges::zremrangebylex),
    write("zremrangebyrank", 4, ranges::zremrangebyrank),
    write("zremrangebyscore", 4, ranges::zremrangebyscore),
    read("zrevrange", -4, ranges::zrevrange),
    read("zrevrangebylex", -4, ranges::zrevrangebylex),
    read("zrevrangebyscore", -4, ranges::zrevrangebyscore),
    read("zrevrank", 3, sorted_sets::zrevrank),
    read("zscan", -3, sorted_sets::zscan),
    read("zscore", 3, sorted_sets::zscore),
    write("xack", -4, stream_groups::xack),
    grow("xadd", -5, streams::xadd),
    write("xdel", -3, streams::xdel),
    container("xgroup"),
    grow("xgroup|create", -5, stream_groups::create),
    grow("xgroup|createconsumer", 5, stream_groups::createconsumer),
    write("xgroup|delconsumer", 5, stream_groups::delconsumer),
    write("xgroup|destroy", 4, stream_groups::destroy),
    write("xgroup|setid", -5, stream_groups::setid),
    read("xlen", 2, streams::xlen),
    read("xpending", -3, stream_groups::xpending),
    read("xrange", -4, streams::xrange),
    session("xread", -4, LOADED, stream_reads::xread),
    session("xreadgroup", -7, LOADED | WRITES, stream_reads::xreadgroup),
    read("xrevrange", -4, streams::xrevrange),
    write("xtrim", -4, streams::xtrim),
];
