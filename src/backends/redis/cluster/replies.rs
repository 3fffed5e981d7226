//! Several replies as one, and replies that say where a command belongs.

use ::redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerError, Value};

use crate::backends::redis::commands::pipeline_is_read_only;
use crate::backends::redis::endpoint::place::Address;

/// A node's word that a command belongs elsewhere. It has not run.
pub(super) struct Redirect {
    pub(super) slot: u16,
    pub(super) to: Address,
    /// For this once, and only if asked for: the slot is on its way.
    pub(super) ask: bool,
}

impl Redirect {
    /// `MOVED 3999 127.0.0.1:6381`; without a host it is that of the node that says it.
    pub(super) fn of(error: &ServerError, from: &Address) -> Option<Self> {
        Self::read(error.code(), error.details()?, from)
    }

    pub(super) fn read(code: &str, details: &str, from: &Address) -> Option<Self> {
        let ask = match code {
            "MOVED" => false,
            "ASK" => true,
            _ => return None,
        };
        let (slot, to) = details.split_once(' ')?;
        let (host, port) = to.rsplit_once(':')?;
        let host = match (host, from) {
            ("", Address::Tcp { host, .. }) => host.clone(),
            (host, _) => host.trim_matches(['[', ']']).to_owned(),
        };
        let to = Address::Tcp {
            host,
            port: port.parse().ok()?,
        };
        let slot = slot.parse().ok()?;
        Some(Self { slot, to, ask })
    }
}

/// Several replies as one. Where some nodes did what others refused, only a read may be repeated.
pub(super) fn in_one(
    results: Vec<RedisResult<Value>>,
    reads: bool,
    gather: impl FnOnce(Vec<Value>) -> Option<Value>,
) -> RedisResult<Value> {
    let is_doubt = |result: &RedisResult<Value>| {
        (result.as_ref()).is_err_and(|error| error.kind() != ErrorKind::ClusterConnectionNotFound)
    };
    let is_refusal = |result: &RedisResult<Value>| match result {
        Ok(reply) => matches!(reply, Value::ServerError(_)),
        Err(_) => true,
    };
    if let Some(at) = results.iter().position(is_doubt) {
        return results.into_iter().nth(at).unwrap_or_else(|| Err(partly()));
    }
    match results.iter().filter(|result| is_refusal(result)).count() {
        0 => {
            let replies = results.into_iter().filter_map(Result::ok).collect();
            gather(replies).ok_or_else(misfit)
        }
        refused if refused == results.len() || reads => {
            let first = results.into_iter().find(is_refusal);
            first.unwrap_or_else(|| Err(partly()))
        }
        _ => Err(partly()),
    }
}

/// What a part of a pipeline gave: that it was not sent is no proof for the whole, once another part was.
pub(super) fn after(
    before: &[Value],
    result: RedisResult<Vec<Value>>,
    pipeline: &Pipeline,
) -> RedisResult<Vec<Value>> {
    match result {
        Err(error) if !error.is_io_error() && !before.is_empty() => {
            match pipeline_is_read_only(pipeline) {
                true => Err(error),
                false => Err(partly()),
            }
        }
        result => result,
    }
}

/// The cursor of a `SCAN`; the driver shows it in the packed command only.
pub(super) fn cursor(scan: &Cmd) -> Option<u64> {
    let packed = scan.get_packed_command();
    let mut lines = packed.split(|byte| *byte == b'\n');
    // *N, $4, SCAN, $L, the cursor
    let digits = lines.nth(4)?.strip_suffix(b"\r")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Some of a command's keys have left with their slot and some have not: nothing has run.
pub(super) fn is_under_way(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if error.code() == TRYAGAIN)
}

pub(super) const TRYAGAIN: &str = "TRYAGAIN";

pub(super) fn refusal(line: &str) -> Value {
    let reply = format!("-{line}\r\n");
    ::redis::parse_redis_value(reply.as_bytes()).unwrap_or(Value::Nil)
}

pub(super) const CROSSSLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";

/// Nothing was sent.
pub(super) fn not_found() -> RedisError {
    let what = "no connection to a node of the cluster";
    RedisError::from((ErrorKind::ClusterConnectionNotFound, what))
}

pub(super) fn partly() -> RedisError {
    let what = "some nodes of the cluster did what others refused";
    RedisError::from((ErrorKind::UnexpectedReturnType, what))
}

pub(super) fn misfit() -> RedisError {
    let what = "the replies of the nodes do not make one";
    RedisError::from((ErrorKind::UnexpectedReturnType, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::redis::{cmd, pipe};

    fn error_of(result: RedisResult<Value>) -> ErrorKind {
        result.unwrap_err().kind()
    }

    #[test]
    fn what_some_nodes_did_and_others_refused_is_a_doubt_unless_it_only_reads() {
        let mixed = || vec![Ok(Value::Okay), Ok(refusal("READONLY"))];
        let all = |_| panic!("they do not make one");
        let written = in_one(mixed(), false, all);
        assert_eq!(error_of(written), ErrorKind::UnexpectedReturnType);
        let unsent = vec![Ok(Value::Okay), Err(not_found())];
        let written = in_one(unsent, false, all);
        assert_eq!(error_of(written), ErrorKind::UnexpectedReturnType);
        assert_eq!(in_one(mixed(), true, all).unwrap(), refusal("READONLY"));
        let refused = || vec![Ok(refusal("READONLY")), Ok(refusal("LOADING"))];
        assert_eq!(in_one(refused(), false, all).unwrap(), refusal("READONLY"));
        let lost = || RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        let cut = in_one(vec![Ok(refusal("READONLY")), Err(lost())], true, all);
        assert_eq!(error_of(cut), ErrorKind::Io);
        let whole = in_one(vec![Ok(Value::Okay)], false, |mut replies| replies.pop());
        assert_eq!(whole.unwrap(), Value::Okay);
    }

    #[test]
    fn a_part_that_was_not_sent_is_no_proof_once_another_part_was() {
        let unsent = || Err(not_found());
        let (mut writes, mut reads) = (pipe(), pipe());
        writes.set("a", 1);
        reads.get("a");
        let kind =
            |before: &[Value], pipeline| after(before, unsent(), pipeline).unwrap_err().kind();
        assert_eq!(kind(&[], &writes), ErrorKind::ClusterConnectionNotFound);
        let sent = [Value::Okay];
        assert_eq!(kind(&sent, &writes), ErrorKind::UnexpectedReturnType);
        assert_eq!(kind(&sent, &reads), ErrorKind::ClusterConnectionNotFound);
    }

    #[test]
    fn a_redirect_without_a_host_is_to_the_host_that_says_it() {
        let from = Address::Tcp {
            host: "asked".to_owned(),
            port: 1,
        };
        let of = |line: &str| match refusal(line) {
            Value::ServerError(error) => Redirect::of(&error, &from),
            other => panic!("{other:?}"),
        };
        for (line, to, ask) in [
            ("MOVED 3999 10.0.0.1:6381", "10.0.0.1:6381", false),
            ("ASK 3999 ::1:6381", "[::1]:6381", true),
            ("MOVED 3999 :6381", "asked:6381", false),
        ] {
            let redirect = of(line).unwrap();
            assert_eq!((redirect.slot, redirect.ask), (3999, ask), "{line}");
            assert_eq!(redirect.to.to_string(), to);
        }
        for other in ["ERR MOVED 1 a:1", "MOVED x a:1", "MOVED 1 a", "MOVED 1 a:x"] {
            assert!(of(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_cursor_is_read_from_either_form() {
        assert_eq!(cursor(cmd("SCAN").arg("42").arg("COUNT").arg(9)), Some(42));
        assert_eq!(cursor(cmd("SCAN").cursor_arg(u64::MAX)), Some(u64::MAX));
        assert_eq!(cursor(cmd("SCAN").arg("x")), None);
        assert_eq!(cursor(&cmd("SCAN")), None);
    }
}
