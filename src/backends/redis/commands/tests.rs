use std::time::Duration;

use ::redis::{Cmd, Pipeline, pipe};

use super::read_only::READ_ONLY;
use super::*;

#[test]
fn the_tables_are_in_order() {
    assert!(READ_ONLY.is_sorted_by(|a, b| a < b));
    assert!(VERBS.is_sorted_by(|(a, _), (b, _)| (a.len(), a) < (b.len(), b)));
    assert!(VERBS.len() < usize::from(NONE));
    let names = READ_ONLY.iter().chain(VERBS.iter().map(|(name, _)| name));
    for name in names {
        assert!(name.len() < Name::MAX, "{name}");
        assert_eq!(name.to_ascii_uppercase(), *name);
    }
}

#[test]
fn what_only_reads_may_be_repeated() {
    for words in [
        "GET k",
        "MGET a b",
        "HGETALL h",
        "ZRANGE z 0 -1",
        "XREAD STREAMS s 0",
        "XREAD BLOCK 0 STREAMS s $",
        "XPENDING s g",
        "SCAN 0",
        "HSCAN h 17",
        "SORT_RO l",
        "GEORADIUS_RO g 1 1 1 m",
        "GEORADIUSBYMEMBER_RO g m 1 m",
        "BITFIELD_RO b GET u4 0",
        "PFCOUNT p",
        "TOUCH k",
        "EVAL_RO s 0",
        "EVALSHA_RO s 0",
        "FCALL_RO f 0",
        "PING",
        "PING hello",
        "ECHO x",
        "TIME",
        "INFO server",
        "ROLE",
        "COMMAND",
        "COMMAND INFO get",
        "CONFIG GET maxmemory",
        "OBJECT ENCODING k",
        "MEMORY USAGE k",
        "CLIENT ID",
        "ACL WHOAMI",
        "SLOWLOG GET 10",
        "LATENCY LATEST",
        "SCRIPT EXISTS sha",
        "FUNCTION DUMP",
        "CLUSTER COUNT-FAILURE-REPORTS id",
        "PUBSUB NUMSUB c",
        "MODULE LIST",
        "XINFO STREAM s",
        "HTTL h FIELDS 1 f",
        "DIGEST k",
        "VSIM v ELE e",
        "JSON.GET j",
        "JSON.MGET j $",
        "FT.SEARCH i q",
        "FT._LIST",
        "TS.GET t",
        "BF.EXISTS b e",
        "TDIGEST.QUANTILE t 0.5",
    ] {
        both_cases(words, |cmd| assert!(is_read_only(cmd), "{words}"));
    }
}

#[test]
fn what_may_change_something_is_not_repeated() {
    for words in [
        "SET k v",
        "INCR k",
        "GETEX k",
        "GETDEL k",
        "GETSET k v",
        "SORT l",
        "SORT l STORE d",
        "GEORADIUS g 1 1 1 m",
        "GEORADIUSBYMEMBER g m 1 m",
        "BITFIELD b GET u4 0",
        "XREADGROUP GROUP g c STREAMS s >",
        "XAUTOCLAIM s g c 0 0",
        "EVAL s 0",
        "EVALSHA s 0",
        "FCALL f 0",
        "HGETEX h FIELDS 1 f",
        "HGETDEL h FIELDS 1 f",
        "JSON.SET j $ 1",
        "TS.ADD t * 1",
        "BF.ADD b e",
        "BF.SCANDUMP b 0",
        "FT.CURSOR READ i 1",
        "PUBLISH c m",
        "CONFIG SET a b",
        "CONFIG",
        "CLIENT KILL id 1",
        "CLIENT",
        "ACL LOG",
        "ACL SETUSER u",
        "SLOWLOG RESET",
        "LATENCY RESET",
        "SCRIPT LOAD s",
        "FUNCTION LOAD s",
        "MEMORY PURGE",
        "DEBUG SLEEP 0",
        "WAIT 1 0",
        "UNKNOWN k",
        // Neither a prefix nor a longer name nor a subcommand of something else.
        "GE k",
        "GETX k",
        "SET|GET",
        "FLUSHALL GET",
        "CLUSTER COUNT-FAILURE-REPORTS-AND-SOMETHING-MORE id",
        "A.COMMAND.WITH.A.NAME.LONGER.THAN.ANY.IN.THE.TABLE k",
    ] {
        both_cases(words, |cmd| assert!(!is_read_only(cmd), "{words}"));
    }
    assert!(!is_read_only(&Cmd::new()));
    assert!(!is_read_only(Cmd::new().cursor_arg(0)));
    assert!(!is_read_only(Cmd::new().arg(b"GET\xff")));
}

#[test]
fn a_pipeline_reads_only_if_every_element_does() {
    assert!(pipeline_is_read_only(&pipeline(&[
        "GET a",
        "CONFIG GET save"
    ])));
    assert!(!pipeline_is_read_only(&pipeline(&["GET a", "INCR a"])));
    assert!(pipeline_is_read_only(pipeline(&["GET a"]).atomic()));
    assert!(pipeline_is_read_only(&pipe()));
}

#[test]
fn common_commands_have_no_candidates() {
    for name in [
        "GET", "SET", "DEL", "INCR", "MGET", "MSET", "HGET", "HSET", "HDEL", "EXPIRE", "EXISTS",
        "TTL", "LPUSH", "LRANGE", "ZADD", "ZRANGE", "XADD", "FCALL", "PUBLISH", "PING", "HGETALL",
    ] {
        assert!(candidates(name.as_bytes()).is_none(), "{name}");
        both_cases(name, |cmd| assert_eq!(route(cmd), Route::Plain, "{name}"));
    }
}

#[test]
fn every_special_command_is_its_own_candidate() {
    for (name, _) in VERBS {
        for name in [name.to_ascii_uppercase(), name.to_ascii_lowercase()] {
            let from = candidates(name.as_bytes()).expect(&name);
            assert!(
                VERBS[from..]
                    .iter()
                    .any(|(verb, _)| verb.eq_ignore_ascii_case(&name))
            );
        }
    }
}

#[test]
fn names_with_candidates_by_chance_are_plain() {
    for words in [
        "SADD s m",
        "SREM s m",
        "SYNX",
        "HMGET h f",
        "HKEYS h",
        "RPUSH l e",
        "SETEX k 1 v",
        "ZCARD z",
        "STRLEN k",
        "CONFIG GET a",
        "3CAN 0",
    ] {
        let name = words.split(' ').next().unwrap();
        assert!(candidates(name.as_bytes()).is_some(), "{words}");
        both_cases(words, |cmd| assert_eq!(route(cmd), Route::Plain, "{words}"));
    }
}

#[test]
fn what_is_no_name_is_plain() {
    assert_eq!(route(&Cmd::new()), Route::Empty);
    assert_eq!(route(Cmd::new().arg("")), Route::Plain);
    assert_eq!(route(Cmd::new().cursor_arg(0)), Route::Plain);
    assert_eq!(route(Cmd::new().arg("S".repeat(31))), Route::Plain);
    assert_eq!(route(Cmd::new().arg("S".repeat(32))), Route::Plain);
    assert_eq!(route(Cmd::new().arg("S".repeat(4000))), Route::Plain);
}

#[test]
fn blocking_commands_and_their_timeouts() {
    use BlockingKind::{FirstSeconds, LastSeconds, Millis};
    for (words, kind, wait) in [
        ("BLPOP a b 1.5", LastSeconds, 1500),
        ("BRPOP a 2", LastSeconds, 2000),
        ("BRPOPLPUSH a b 3", LastSeconds, 3000),
        ("BLMOVE a b LEFT RIGHT 0.25", LastSeconds, 250),
        ("BZPOPMIN a 1", LastSeconds, 1000),
        ("BZPOPMAX a 1", LastSeconds, 1000),
        ("BLMPOP 1 2 a b LEFT COUNT 9", FirstSeconds, 1000),
        ("BZMPOP 0.5 1 a MIN", FirstSeconds, 500),
        ("XREAD BLOCK 70 STREAMS s $", Millis { at: 2 }, 70),
        ("XREAD COUNT 5 BLOCK 70 STREAMS s $", Millis { at: 4 }, 70),
        (
            "XREADGROUP GROUP g c NOACK BLOCK 70 STREAMS s >",
            Millis { at: 6 },
            70,
        ),
        (
            "XREADGROUP GROUP BLOCK STREAMS COUNT 1 BLOCK 70 STREAMS s >",
            Millis { at: 7 },
            70,
        ),
        (
            "XREADGROUP GROUP g c CLAIM 5 BLOCK 70 STREAMS s >",
            Millis { at: 7 },
            70,
        ),
    ] {
        both_cases(words, |cmd| {
            assert_eq!(route(cmd), Route::Blocking(kind), "{words}");
            assert_eq!(timeout(cmd), Some(Duration::from_millis(wait)), "{words}");
        });
    }
}

#[test]
fn reading_a_stream_without_blocking_is_plain() {
    for words in [
        "XREAD STREAMS s 0",
        "XREAD COUNT 1 STREAMS BLOCK 0",
        "XREADGROUP GROUP BLOCK BLOCK STREAMS s >",
        "XREADGROUP GROUP g BLOCK COUNT 1 NOACK STREAMS BLOCK >",
        "XREAD",
        "XREADGROUP GROUP g",
    ] {
        both_cases(words, |cmd| {
            assert_eq!(route(cmd), Route::Plain, "{words}");
            assert_eq!(timeout(cmd), None);
        });
    }
}

#[test]
fn waiting_forever_stays_forever() {
    for words in [
        "BLPOP a 0",
        "BLPOP a 0.0",
        "BLMPOP 0 1 a LEFT",
        "XREAD BLOCK 0 STREAMS s $",
    ] {
        let cmd = command(words);
        assert_eq!(timeout(&cmd), None, "{words}");
        assert_eq!(text(&with_timeout(&cmd, Duration::from_secs(9))), words);
    }
}

#[test]
fn a_timeout_the_server_refuses_is_left_to_it() {
    for words in [
        "BLPOP a -1",
        "BLPOP a soon",
        "BLPOP a inf",
        "BLPOP a nan",
        "BLPOP",
        "BLMPOP",
        "XREAD BLOCK -5 STREAMS s $",
        "XREAD BLOCK 1.5 STREAMS s $",
        "XREAD BLOCK",
    ] {
        let cmd = command(words);
        assert!(matches!(route(&cmd), Route::Blocking(_)), "{words}");
        assert_eq!(timeout(&cmd), None, "{words}");
        assert_eq!(text(&with_timeout(&cmd, Duration::from_secs(9))), words);
    }
    let odd = command("BLPOP a").cursor_arg(4).take();
    assert_eq!(
        with_timeout(&odd, Duration::ZERO).get_packed_command(),
        odd.get_packed_command()
    );
}

#[test]
fn a_reissued_command_waits_for_what_is_left() {
    let ms = Duration::from_millis;
    for (words, left, reissued) in [
        ("BLPOP a b 9", ms(2_500), "BLPOP a b 2.500"),
        ("blpop 9 9", ms(2_500), "blpop 9 2.500"),
        ("BLMPOP 9 1 a LEFT", ms(42), "BLMPOP 0.042 1 a LEFT"),
        ("BZMPOP 9 1 a MIN", ms(1_000), "BZMPOP 1.000 1 a MIN"),
        (
            "BLMOVE a b LEFT LEFT 9",
            ms(1),
            "BLMOVE a b LEFT LEFT 0.001",
        ),
        (
            "XREAD COUNT 9 BLOCK 9 STREAMS s $",
            ms(7),
            "XREAD COUNT 9 BLOCK 7 STREAMS s $",
        ),
        // Never 0, which is forever.
        ("BLPOP a 9", Duration::ZERO, "BLPOP a 0.001"),
        ("BLPOP a 9", Duration::from_nanos(1), "BLPOP a 0.001"),
        (
            "XREAD BLOCK 9 STREAMS s $",
            Duration::ZERO,
            "XREAD BLOCK 1 STREAMS s $",
        ),
        ("BLPOP a 9", Duration::from_micros(1_001), "BLPOP a 0.002"),
        // Not a blocking command: unchanged.
        ("GET 9", ms(7), "GET 9"),
    ] {
        assert_eq!(text(&with_timeout(&command(words), left)), reissued);
    }
    let mut silent = command("BLPOP a 9");
    silent.set_no_response(true);
    assert!(with_timeout(&silent, ms(1)).is_no_response());
}

#[test]
fn a_reissued_timeout_reads_back() {
    for millis in [1, 999, 1_000, 1_001, 3_600_000, 86_400_000 * 400] {
        let left = Duration::from_millis(millis);
        for words in ["BLPOP a 9", "BZMPOP 9 1 a MIN", "XREAD BLOCK 9 STREAMS s $"] {
            assert_eq!(timeout(&with_timeout(&command(words), left)), Some(left));
        }
    }
}

#[test]
fn optimistic_locking() {
    both_cases("WATCH a b", |cmd| assert_eq!(route(cmd), Route::Watch));
    both_cases("UNWATCH", |cmd| assert_eq!(route(cmd), Route::Unwatch));
}

#[test]
fn iterations_know_whether_they_have_begun() {
    use Cursor::{Continue, Start};
    for (words, cursor) in [
        ("SCAN 0", Start),
        ("SCAN 0 MATCH 7*", Start),
        ("SCAN 00", Start),
        ("SCAN 17", Continue),
        ("SCAN 10 COUNT 0", Continue),
        ("HSCAN 5 0", Start),
        ("HSCAN 0 5", Continue),
        ("SSCAN s 0", Start),
        ("SSCAN s 18446744073709551615", Continue),
        ("ZSCAN z 0", Start),
        ("ZSCAN z 3", Continue),
        ("SCAN", Start),
        ("SCAN x", Continue),
    ] {
        both_cases(words, |cmd| {
            assert_eq!(route(cmd), Route::Scan { cursor }, "{words}");
        });
    }
}

#[test]
fn iterations_of_the_driver_too() {
    use Cursor::{Continue, Start};
    for (value, cursor) in [(0, Start), (1, Continue), (u64::MAX, Continue)] {
        let scan = command("SCAN")
            .cursor_arg(value)
            .arg("MATCH")
            .arg("a*")
            .take();
        assert_eq!(route(&scan), Route::Scan { cursor });
        // The driver's packed form is compared, so a key that looks like a cursor must not matter.
        let hscan = command("HSCAN 7").cursor_arg(value).take();
        assert_eq!(route(&hscan), Route::Scan { cursor });
    }
}

#[test]
fn session_verbs_are_refused_by_name() {
    for name in [
        "MULTI",
        "EXEC",
        "DISCARD",
        "SELECT",
        "HELLO",
        "AUTH",
        "RESET",
        "QUIT",
        "MONITOR",
        "SYNC",
        "PSYNC",
        "REPLCONF",
        "SUBSCRIBE",
        "PSUBSCRIBE",
        "SSUBSCRIBE",
        "UNSUBSCRIBE",
        "PUNSUBSCRIBE",
        "SUNSUBSCRIBE",
        "READONLY",
        "READWRITE",
        "ASKING",
        "WAIT",
        "WAITAOF",
        "CLIENT SETNAME",
        "CLIENT SETINFO",
        "CLIENT REPLY",
        "CLIENT TRACKING",
        "CLIENT CACHING",
        "CLIENT NO-EVICT",
        "CLIENT NO-TOUCH",
        "CLIENT CAPA",
        "CLIENT IMPORT-SOURCE",
        "SCRIPT DEBUG",
    ] {
        both_cases(&format!("{name} x"), |cmd| {
            assert_eq!(route(cmd), Route::Unsupported(name));
        });
    }
}

#[test]
fn other_subcommands_are_plain() {
    for words in [
        "CLIENT",
        "CLIENT ID",
        "CLIENT KILL ID 1",
        "CLIENT LIST",
        "CLIENT UNBLOCK 1",
        "CLIENT PAUSE 1",
        "CLIENT TRACKINGINFO",
        "SCRIPT",
        "SCRIPT EXISTS x",
    ] {
        both_cases(words, |cmd| assert_eq!(route(cmd), Route::Plain, "{words}"));
    }
}

#[test]
fn what_runs_and_loads_scripts_is_known() {
    for (words, expected) in [
        ("EVALSHA s 0", Route::RunScript),
        ("EVALSHA_RO s 0", Route::RunScript),
        ("EVAL s 0", Route::Plain),
        ("SCRIPT LOAD x", Route::LoadScript),
        ("SCRIPT FLUSH", Route::FlushScripts),
    ] {
        both_cases(words, |cmd| assert_eq!(route(cmd), expected, "{words}"));
    }
}

#[test]
fn the_strictest_element_routes_a_pipeline() {
    use Cursor::{Continue, Start};
    use PipelineRoute::{Blocking, Plain, RunsScripts, Scan, Unsupported};
    let scan = |cursor, blocking| Scan { cursor, blocking };
    let cases: &[(&[&str], PipelineRoute)] = &[
        (&[], Plain),
        (&["GET a", "SET a 1"], Plain),
        (&["SET a 1", "EVALSHA s 0", "SCRIPT LOAD x"], RunsScripts),
        (&["EVALSHA s 0", "BLPOP l 1"], Blocking),
        (&["SET a 1", "BLPOP l 1", "GET a"], Blocking),
        (&["XREAD BLOCK 1 STREAMS s $"], Blocking),
        (&["XREAD STREAMS s 0"], Plain),
        (&["GET a", "SCAN 0"], scan(Start, false)),
        (&["SCAN 0", "HSCAN h 5"], scan(Continue, false)),
        (&["HSCAN h 5", "SCAN 0"], scan(Continue, false)),
        (&["HSCAN h 5", "BLPOP l 1"], scan(Continue, true)),
        (&["BLPOP l 1", "SCAN 0"], scan(Start, true)),
        (&["GET a", "WATCH a"], Unsupported("WATCH")),
        (&["unwatch"], Unsupported("UNWATCH")),
        (&["BLPOP l 1", "SCAN 5", "select 1"], Unsupported("SELECT")),
        (&["CLIENT REPLY OFF"], Unsupported("CLIENT REPLY")),
        (&["CLIENT ID"], Plain),
        (&["SET a 1", "WAIT 1 50"], Blocking),
        (&["SET a 1", "GET a", "waitaof 1 0 50"], Blocking),
        (&["SET a 1", "WAIT 1 50", "EXEC"], Unsupported("EXEC")),
        (&["WAIT 1 50"], Unsupported("WAIT")),
        (&["WAIT 1 50", "SET a 1"], Unsupported("WAIT")),
        (&["GET a", "WAITAOF 1 0 50"], Unsupported("WAITAOF")),
    ];
    for (elements, expected) in cases {
        assert_eq!(
            route_pipeline(&pipeline(elements)),
            *expected,
            "{elements:?}"
        );
    }
}

#[test]
fn nothing_blocks_in_a_transaction() {
    use PipelineRoute::{Plain, Scan, Unsupported};
    let cases: &[(&[&str], PipelineRoute)] = &[
        (&["SET a 1", "BLPOP l 1"], Plain),
        (&["SET a 1", "WAIT 1 50"], Plain),
        (&["WAIT 1 50"], Unsupported("WAIT")),
        (&["MULTI"], Unsupported("MULTI")),
        (
            &["SCAN 5", "BLPOP l 1"],
            Scan {
                cursor: Cursor::Continue,
                blocking: false,
            },
        ),
    ];
    for (elements, expected) in cases {
        let mut pipeline = pipeline(elements);
        assert_eq!(route_pipeline(pipeline.atomic()), *expected, "{elements:?}");
    }
}

fn command(words: &str) -> Cmd {
    let mut cmd = Cmd::new();
    for word in words.split(' ') {
        cmd.arg(word);
    }
    cmd
}

fn pipeline(elements: &[&str]) -> Pipeline {
    let mut pipeline = pipe();
    for words in elements {
        pipeline.add_command(command(words));
    }
    pipeline
}

fn both_cases(words: &str, check: impl Fn(&Cmd)) {
    check(&command(&words.to_ascii_uppercase()));
    check(&command(&words.to_ascii_lowercase()));
}

fn text(cmd: &Cmd) -> String {
    let words = cmd.args_iter().map(|arg| match arg {
        Arg::Simple(word) => String::from_utf8(word.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    });
    words.collect::<Vec<_>>().join(" ")
}
