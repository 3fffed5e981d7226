use std::io;

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{
    AsyncConnectionConfig, IntoConnectionInfo, Pipeline, RedisFuture, cmd, make_extension_error,
    parse_redis_value, pipe,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

// === What the server says to a command that is no script ===

#[test]
fn every_reply_has_its_class() {
    for (reply, class) in [
        // Availability.
        (LOADING, at_once("LOADING")),
        (READONLY, at_once("READONLY")),
        (MASTERDOWN, at_once("MASTERDOWN")),
        (CLUSTERDOWN, at_once("CLUSTERDOWN")),
        ("-CLUSTERDOWN The cluster is down", at_once("CLUSTERDOWN")),
        (UNBLOCKED, at_once("UNBLOCKED")),
        (OOM, repeated("OOM")),
        (MISCONF, repeated("MISCONF")),
        (NOREPLICAS, repeated("NOREPLICAS")),
        (BUSY, repeated("BUSY")),
        (TRYAGAIN, repeated("TRYAGAIN")),
        (MAXCLIENTS, repeated("MAXCLIENTS")),
        ("-LOADING", at_once("LOADING")),
        // Who asks.
        (NOAUTH, DENIED),
        (
            "-WRONGPASS invalid username-password pair or user is disabled.",
            DENIED,
        ),
        (
            "-DENIED Redis is running in protected mode because ...",
            DENIED,
        ),
        // What is asked.
        (NOSCRIPT, CALLER),
        (NOPERM, CALLER),
        ("-MOVED 3999 127.0.0.1:6381", CALLER),
        ("-ASK 3999 127.0.0.1:6381", CALLER),
        (
            "-CROSSSLOT Keys in request don't hash to the same slot",
            CALLER,
        ),
        ("-ERR syntax error", CALLER),
        (
            "-ERR unknown command 'nosuch', with args beginning with: 'a' ",
            CALLER,
        ),
        ("-ERR unknown subcommand 'nosuch'. Try CONFIG HELP.", CALLER),
        (ARITY, CALLER),
        // EXEC sent alone, over a connection that carries transactions as single commands.
        (
            "-EXECABORT Transaction discarded because of previous errors.",
            CALLER,
        ),
        // The command's own answers.
        (WRONGTYPE, Class::Executed),
        (
            "-ERR value is not an integer or out of range",
            Class::Executed,
        ),
        ("-ERR no such key", Class::Executed),
        ("-ERR", Class::Executed),
        (
            "-BUSYGROUP Consumer Group name already exists",
            Class::Executed,
        ),
        ("-BUSYKEY Target key name already exists.", Class::Executed),
        (
            "-NOTBUSY No scripts in execution right now.",
            Class::Executed,
        ),
        (
            "-NOSUB 'unsubscribe' command executed not in subscribed mode",
            Class::Executed,
        ),
        (
            "-UNBLOCKED client unblocked via CLIENT UNBLOCK",
            Class::Executed,
        ),
        (
            "-UNKILLABLE Sorry the script already executed write commands",
            Class::Executed,
        ),
        (
            "-IOERR error or timeout writing to target instance",
            Class::Executed,
        ),
        ("-SOMETHING new", Class::Executed),
        // Not an error.
        ("+OK", Class::Executed),
        ("+PONG", Class::Executed),
        ("$-1", Class::Executed),
        ("_", Class::Executed),
        (":1", Class::Executed),
        ("$2\r\nhi", Class::Executed),
        ("*1\r\n$2\r\nhi", Class::Executed),
        ("%1\r\n+a\r\n:1", Class::Executed),
        ("~1\r\n+a", Class::Executed),
        (",1.5", Class::Executed),
        ("#t", Class::Executed),
        ("=6\r\ntxt:hi", Class::Executed),
        ("(12345678901234567890", Class::Executed),
        // An error inside an array is data: EXEC's, or a script's.
        ("*1\r\n-READONLY mine", Class::Executed),
    ] {
        let result = Ok(value(reply));
        let seen = classify_command(&cmd("SET"), Phase::Answered, &result);
        assert_eq!(seen, class, "{reply}");
        assert_eq!(clean(&result), !reply.starts_with('-'), "{reply}");
    }
}

#[test]
fn attributes_around_a_reply_do_not_hide_it() {
    for (reply, class) in [
        (
            format!("|1\r\n+ttl\r\n:3600\r\n{READONLY}"),
            at_once("READONLY"),
        ),
        (
            format!("|1\r\n+a\r\n:1\r\n|1\r\n+b\r\n:2\r\n{OOM}"),
            repeated("OOM"),
        ),
        ("|1\r\n+ttl\r\n:3600\r\n+OK".into(), Class::Executed),
    ] {
        let result = Ok(value(&reply));
        assert_eq!(
            classify_command(&cmd("GET"), Phase::Answered, &result),
            class
        );
        assert_eq!(clean(&result), class == Class::Executed);
    }
}

#[test]
fn the_phase_comes_before_the_result() {
    for (phase, class) in [
        (Phase::TimedOut, Class::Unknown(Doubt::TimedOut)),
        (Phase::Lost { sent: true }, Class::Unknown(Doubt::Lost)),
        (Phase::Lost { sent: false }, Class::NotSent(NotSent::Lost)),
    ] {
        for error in [io::ErrorKind::TimedOut, io::ErrorKind::BrokenPipe] {
            let error = RedisError::from(io::Error::from(error));
            assert_eq!(
                classify_command(&cmd("SET"), phase, &Err(error.clone())),
                class
            );
            assert_eq!(classify_pipeline(&sets(2), phase, &Err(error)), class);
        }
        assert_eq!(
            classify_command(&cmd("SET"), phase, &Ok(value(READONLY))),
            class
        );
        assert_eq!(
            classify_pipeline(&sets(1), phase, &Ok(values(&[READONLY]))),
            class
        );
    }
}

// === What the driver says ===

#[test]
fn every_error_of_the_driver_has_its_class() {
    let protocol = Class::Unknown(Doubt::Protocol);
    for (kind, class) in [
        (ErrorKind::Client, Class::NotSent(NotSent::Local)),
        (
            ErrorKind::InvalidClientConfig,
            Class::NotSent(NotSent::Local),
        ),
        (
            ErrorKind::RESP3NotSupported,
            Class::NotSent(NotSent::Connect),
        ),
        (
            ErrorKind::EmptySentinelList,
            Class::NotSent(NotSent::Connect),
        ),
        (
            ErrorKind::MasterNameNotFoundBySentinel,
            Class::NotSent(NotSent::Connect),
        ),
        (
            ErrorKind::NoValidReplicasFoundBySentinel,
            Class::NotSent(NotSent::Connect),
        ),
        (ErrorKind::AuthenticationFailed, DENIED),
        (
            ErrorKind::ClusterConnectionNotFound,
            Class::NotSent(NotSent::Connect),
        ),
        (ErrorKind::Io, protocol.clone()),
        (ErrorKind::Parse, protocol.clone()),
        (ErrorKind::UnexpectedReturnType, protocol.clone()),
        // It looks like a server's error, but no server said it.
        (ErrorKind::Extension, protocol),
    ] {
        let error = || RedisError::from((kind, "said"));
        let seen = classify_command(&cmd("SET"), Phase::Answered, &Err(error()));
        assert_eq!(seen, class, "{kind:?}");
        let seen = classify_pipeline(&sets(2), Phase::Answered, &Err(error()));
        assert_eq!(seen, class, "{kind:?}");
        let seen = classify_pipeline(sets(2).atomic(), Phase::Answered, &Err(error()));
        assert_eq!(seen, class, "{kind:?}");
        assert!(!clean(&Err(error())));
        assert!(!clean_pipeline(&Err(error())));
    }
}

#[test]
fn a_servers_error_counts_as_an_error_of_the_driver_too() {
    let extension = |code: &str| make_extension_error(code.into(), Some("said".into()));
    let known = value(READONLY).extract_error().unwrap_err();
    for (error, class) in [
        (known, at_once("READONLY")),
        (extension("MISCONF"), repeated("MISCONF")),
        (extension("NOAUTH"), DENIED),
        (extension("WRONGTYPE"), Class::Executed),
    ] {
        assert_eq!(
            classify_command(&cmd("SET"), Phase::Answered, &Err(error.clone())),
            class
        );
        // In a pipeline it stands for its first element.
        assert_eq!(
            classify_pipeline(&sets(1), Phase::Answered, &Err(error.clone())),
            class
        );
        assert_eq!(
            classify_pipeline(&sets(2), Phase::Answered, &Err(error)),
            Class::Executed
        );
    }
}

// === Scripts ===

#[test]
fn a_script_that_never_started_did_not_run() {
    for verb in [
        "EVAL",
        "evalsha",
        "EVAL_RO",
        "EvalSha_ro",
        "FCALL",
        "fcall_ro",
    ] {
        for (reply, class) in [
            (LOADING, at_once("LOADING")),
            (MASTERDOWN, at_once("MASTERDOWN")),
            (CLUSTERDOWN, at_once("CLUSTERDOWN")),
            ("-CLUSTERDOWN The cluster is down", at_once("CLUSTERDOWN")),
            (TRYAGAIN, repeated("TRYAGAIN")),
            (BUSY, repeated("BUSY")),
            (
                "-BUSY Valkey is busy running a script. You can only call",
                repeated("BUSY"),
            ),
            (MAXCLIENTS, repeated("MAXCLIENTS")),
            (NOAUTH, DENIED),
            (NOSCRIPT, CALLER),
            (NOPERM, CALLER),
            (
                "-NOPERM User u has no permissions to run the 'eval' command",
                CALLER,
            ),
            (ARITY, CALLER),
            (
                "-ERR unknown command 'FCALL', with args beginning with: ",
                CALLER,
            ),
        ] {
            assert_eq!(
                run(cmd(verb).arg("x").arg(0), reply),
                class,
                "{verb} {reply}"
            );
        }
    }
}

#[test]
fn a_script_that_may_have_started_ran() {
    for verb in ["EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO"] {
        for reply in [
            // By `pcall`, as the server worded them.
            READONLY,
            OOM,
            MISCONF,
            NOREPLICAS,
            WRONGTYPE,
            "-ERR syntax error",
            "-ERR The user executing the script can't run this command or subcommand",
            // Raised inside.
            "-ERR Script killed by user with SCRIPT KILL... script: a1ee, on @user_script:1.",
            "-ERR Wrong number of args calling Redis command from script script: a1, on @user_script:1.",
            "-NOPERM ACL failure in script: User u has no permissions to run the 'del' command",
            // By `error_reply`, as the script pleases.
            "-BUSY the lock is held",
            "-LOADING my cache",
            "-READONLY mode",
            "-MASTERDOWN",
            "-NOAUTH no session",
            "-NOSCRIPT for you",
            "-NOPERM for you",
            "-WRONGPASS for you",
            "-UNBLOCKED force unblock from blocking operation",
            "-EXECABORT mine",
        ] {
            assert_eq!(
                run(cmd(verb).arg("x").arg(0), reply),
                Class::Executed,
                "{verb} {reply}"
            );
        }
    }
}

#[test]
fn an_error_that_names_its_script_was_raised_inside() {
    for verb in ["EVAL", "EVALSHA", "FCALL"] {
        for reply in [
            LOADING, READONLY, OOM, MISCONF, NOREPLICAS, BUSY, NOAUTH, ARITY,
        ] {
            let inside = format!("{reply} script: b51a, on @user_script:1.");
            let script = cmd(verb).arg("#!lua\nx").arg(0).take();
            assert_eq!(run(&script, &inside), Class::Executed, "{verb} {reply}");
        }
    }
}

#[test]
fn what_declares_its_writes_is_refused_as_a_whole() {
    let declared = [
        cmd("EVAL").arg("#!lua\nreturn 1").arg(0).take(),
        cmd("eval_ro").arg("#!lua\nreturn 1").arg(0).take(),
        cmd("FCALL").arg("f").arg(0).take(),
        cmd("fcall_ro").arg("f").arg(0).take(),
    ];
    for script in &declared {
        assert_eq!(run(script, READONLY), at_once("READONLY"));
        assert_eq!(run(script, OOM), repeated("OOM"));
        // These may begin in the middle of a long script.
        assert_eq!(run(script, NOREPLICAS), Class::Executed);
        assert_eq!(run(script, MISCONF), Class::Executed);
        assert_eq!(run(script, "-READONLY mode"), Class::Executed);
    }
    // The first line is not seen in a hash, and a key is no body.
    assert_eq!(
        run(cmd("EVALSHA").arg("#!").arg(0), READONLY),
        Class::Executed
    );
    assert_eq!(
        run(cmd("EVAL").arg("x").arg(1).arg("#!"), READONLY),
        Class::Executed
    );
    assert_eq!(run(&cmd("EVAL"), READONLY), Class::Executed);
}

#[test]
fn a_script_is_evidence_only_by_the_servers_own_words() {
    let script = cmd("EVALSHA").arg("x").arg(0).take();
    let inside = |reply: &str| format!("{reply} script: b51a, on @user_script:1.");
    for (reply, evidence) in [
        (LOADING.into(), Some(("LOADING", true))),
        (READONLY.into(), Some(("READONLY", false))),
        (inside(READONLY), Some(("READONLY", false))),
        (inside(OOM), Some(("OOM", false))),
        (inside(MISCONF), Some(("MISCONF", false))),
        (
            "-MISCONF Errors writing to the AOF file: No space".into(),
            Some(("MISCONF", false)),
        ),
        (NOREPLICAS.into(), Some(("NOREPLICAS", false))),
        ("-BUSY the lock is held".into(), None),
        ("-READONLY mode".into(), None),
        (NOAUTH.into(), None),
        (WRONGTYPE.into(), None),
        ("+OK".into(), None),
    ] {
        let state = refusal(&script, &value(&reply));
        assert_eq!(
            state.map(|state| (state.code, state.elsewhere)),
            evidence,
            "{reply}"
        );
    }
}

// === Iterations ===

#[test]
fn an_iteration_goes_on_only_where_it_began() {
    let begun = cmd("SCAN").arg(17).take();
    let class = run(&begun, LOADING);
    assert_eq!(
        class,
        Class::NotExecuted(Refusal::State(stay("LOADING", true)))
    );
    assert_eq!(
        refusal(&begun, &value(LOADING)),
        Some(stay("LOADING", true))
    );
    assert_eq!(run(cmd("SCAN").arg(0), LOADING), at_once("LOADING"));

    let mut batch = pipe();
    batch.cmd("GET").arg("k").cmd("HSCAN").arg("h").arg(3);
    let stays = Class::NotExecuted(Refusal::State(stay("LOADING", true)));
    assert_eq!(run_pipeline(&batch, &[LOADING, LOADING]), stays);
    assert_eq!(
        run_pipeline(
            batch.atomic(),
            &[&format!("-EXECABORT {BECAUSE}{}", &LOADING[1..])]
        ),
        stays
    );
}

// === Plain pipelines ===

#[test]
fn a_pipeline_is_refused_only_if_every_element_is() {
    let cases: &[(&[&str], Class)] = &[
        (&[READONLY], at_once("READONLY")),
        (&[READONLY, READONLY], at_once("READONLY")),
        (&[OOM, READONLY], repeated("OOM")),
        (&[NOAUTH, NOAUTH], DENIED),
        (&[LOADING, NOAUTH], DENIED),
        (&[ARITY, NOAUTH], DENIED),
        (&[NOSCRIPT], CALLER),
        (&[READONLY, ARITY], CALLER),
        (&[ARITY, READONLY], CALLER),
        (&["+OK", READONLY], Class::Executed),
        (&[READONLY, "+OK"], Class::Executed),
        (&[READONLY, WRONGTYPE], Class::Executed),
        (&["+OK", "$-1"], Class::Executed),
        (&[], Class::Executed),
    ];
    for (replies, class) in cases {
        assert_eq!(
            run_pipeline(&sets(replies.len()), replies),
            *class,
            "{replies:?}"
        );
        let errors = replies.iter().any(|reply| reply.starts_with('-'));
        assert_eq!(clean_pipeline(&Ok(values(replies))), !errors, "{replies:?}");
    }
}

#[test]
fn a_script_in_a_pipeline_is_a_script() {
    let mut batch = pipe();
    batch
        .cmd("SET")
        .arg("k")
        .arg(1)
        .cmd("EVALSHA")
        .arg("x")
        .arg(0);
    assert_eq!(run_pipeline(&batch, &[READONLY, READONLY]), Class::Executed);
    assert_eq!(
        run_pipeline(&batch, &[LOADING, LOADING]),
        at_once("LOADING")
    );
    let evidence = refusal_in(&batch, &values(&["+OK", READONLY]));
    assert_eq!(evidence, Some(stay("READONLY", true)));
    assert_eq!(
        refusal_in(&batch, &values(&["+OK", "-READONLY mode"])),
        None
    );
}

#[test]
fn replies_that_do_not_fit_the_pipeline_are_a_protocol_error() {
    for replies in [&[][..], &["+OK"], &["+OK", "+OK", "+OK"]] {
        assert_eq!(
            run_pipeline(&sets(2), replies),
            Class::Unknown(Doubt::Protocol)
        );
    }
    for replies in [&[][..], &["*0", "*0"]] {
        let seen = run_pipeline(sets(2).atomic(), replies);
        assert_eq!(seen, Class::Unknown(Doubt::Protocol));
    }
}

#[test]
fn a_partly_refused_pipeline_keeps_its_evidence() {
    for (replies, code) in [
        (&["+OK", READONLY][..], Some("READONLY")),
        (&[OOM, READONLY], Some("OOM")),
        (&["+OK", WRONGTYPE], None),
        (&[NOAUTH, ARITY], None),
        (&["+OK", "$-1"], None),
    ] {
        let state = refusal_in(&sets(2), &values(replies));
        assert_eq!(state.map(|state| state.code), code, "{replies:?}");
    }
}

#[tokio::test]
async fn a_pipelines_errors_as_the_driver_composes_them() {
    for (replies, class) in [
        ([READONLY, READONLY], at_once("READONLY")),
        ([READONLY, "+OK"], Class::Executed),
        (["+OK", READONLY], Class::Executed),
    ] {
        let batch = sets(2);
        let composed = batch
            .query_async::<Value>(&mut Answers(values(&replies)))
            .await;
        let result = Err(composed.unwrap_err());
        assert_eq!(
            classify_pipeline(&batch, Phase::Answered, &result),
            class,
            "{replies:?}"
        );
    }
}

// === Transactions ===

#[test]
fn what_exec_answers_is_one_outcome() {
    for (exec, class, evidence) in [
        // Nil: a watched key was touched, or our own word that it may have been.
        ("*-1", Class::Executed, None),
        ("$-1", Class::Executed, None),
        ("*2\r\n+OK\r\n+OK", Class::Executed, None),
        ("*2\r\n+OK\r\n-WRONGTYPE Operation", Class::Executed, None),
        (
            "*2\r\n+OK\r\n-READONLY You can't",
            Class::Executed,
            Some("READONLY"),
        ),
        (
            "-EXECABORT Transaction discarded because of previous errors.",
            CALLER,
            None,
        ),
        ("-ERR EXEC without MULTI", Class::Executed, None),
        (NOAUTH, DENIED, None),
        (LOADING, at_once("LOADING"), Some("LOADING")),
    ] {
        let mut transaction = sets(2);
        transaction.atomic();
        assert_eq!(run_pipeline(&transaction, &[exec]), class, "{exec}");
        let state = refusal_in(&transaction, &values(&[exec]));
        assert_eq!(state.map(|state| state.code), evidence, "{exec}");
        assert_eq!(
            clean_pipeline(&Ok(values(&[exec]))),
            !exec.contains('-') || exec.ends_with("-1")
        );
    }
}

#[test]
fn exec_names_the_cause_of_its_refusal() {
    for (cause, class) in [
        (READONLY, at_once("READONLY")),
        (NOREPLICAS, repeated("NOREPLICAS")),
        (BUSY, repeated("BUSY")),
        (NOAUTH, DENIED),
        (NOPERM, CALLER),
        ("-WRONGTYPE odd", CALLER),
        ("-ODD", CALLER),
    ] {
        let exec = format!("-EXECABORT {BECAUSE}{}", &cause[1..]);
        assert_eq!(run_pipeline(sets(2).atomic(), &[&exec]), class, "{cause}");
    }
}

#[tokio::test]
async fn errors_while_queueing_discard_a_transaction() {
    const ABORT: &str = "-EXECABORT Transaction discarded because of previous errors.";
    for (replies, class) in [
        (["+OK", READONLY, READONLY, ABORT], at_once("READONLY")),
        (["+OK", "+QUEUED", OOM, ABORT], repeated("OOM")),
        (["+OK", OOM, READONLY, ABORT], repeated("OOM")),
        (["+OK", ARITY, READONLY, ABORT], at_once("READONLY")),
        (["+OK", READONLY, ARITY, ABORT], at_once("READONLY")),
        (["+OK", READONLY, NOAUTH, ABORT], DENIED),
        (["+OK", "+QUEUED", ARITY, ABORT], CALLER),
        (
            ["+OK", "+QUEUED", "-ERR not allowed in a transaction", ABORT],
            CALLER,
        ),
    ] {
        let mut transaction = sets(2);
        transaction.atomic();
        let result = driver_sees(&transaction, &replies).await;
        assert!(result.is_err());
        let class_seen = classify_pipeline(&transaction, Phase::Answered, &result);
        assert_eq!(class_seen, class, "{replies:?}");
    }
}

#[tokio::test]
async fn a_script_refused_while_queueing_never_started() {
    let mut transaction = pipe();
    transaction.atomic().cmd("EVAL").arg("return 1").arg(0);
    let result = driver_sees(&transaction, &["+OK", OOM, "-EXECABORT"]).await;
    let class = classify_pipeline(&transaction, Phase::Answered, &result);
    assert_eq!(class, repeated("OOM"));
}

/// In a debug build the driver panics over such a reply, and its caller sees a lost connection.
#[cfg(not(debug_assertions))]
#[tokio::test]
async fn without_multi_the_elements_ran_one_by_one() {
    const WITHOUT: &str = "-ERR EXEC without MULTI";
    for (replies, class) in [
        ([NOAUTH, NOAUTH, NOAUTH, NOAUTH], DENIED),
        ([NOPERM, NOPERM, NOPERM, WITHOUT], CALLER),
        ([NOPERM, "+OK", "+OK", WITHOUT], Class::Executed),
        ([NOPERM, READONLY, "+OK", WITHOUT], Class::Executed),
        ([NOPERM, READONLY, WRONGTYPE, WITHOUT], Class::Executed),
    ] {
        let mut transaction = sets(2);
        transaction.atomic();
        let result = driver_sees(&transaction, &replies).await;
        let class_seen = classify_pipeline(&transaction, Phase::Answered, &result);
        assert_eq!(class_seen, class, "{replies:?}");
    }
}

// === Rig ===

fn run(cmd: &Cmd, reply: &str) -> Class {
    classify_command(cmd, Phase::Answered, &Ok(value(reply)))
}

fn run_pipeline(pipeline: &Pipeline, replies: &[&str]) -> Class {
    classify_pipeline(pipeline, Phase::Answered, &Ok(values(replies)))
}

fn value(reply: &str) -> Value {
    parse_redis_value(format!("{reply}\r\n").as_bytes()).expect(reply)
}

fn values(replies: &[&str]) -> Vec<Value> {
    replies.iter().map(|reply| value(reply)).collect()
}

fn sets(elements: usize) -> Pipeline {
    let mut pipeline = pipe();
    for _ in 0..elements {
        pipeline.cmd("SET").arg("k").arg(1);
    }
    pipeline
}

fn at_once(code: &'static str) -> Class {
    Class::NotExecuted(Refusal::State(ServerState {
        code,
        at_once: true,
        elsewhere: true,
    }))
}

fn repeated(code: &'static str) -> Class {
    Class::NotExecuted(Refusal::State(ServerState {
        code,
        at_once: false,
        elsewhere: true,
    }))
}

fn stay(code: &'static str, at_once: bool) -> ServerState {
    ServerState {
        code,
        at_once,
        elsewhere: false,
    }
}

/// What the real driver makes of these replies, one to each command of the transaction.
async fn driver_sees(transaction: &Pipeline, replies: &[&str]) -> RedisResult<Vec<Value>> {
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    let info = "redis://127.0.0.1".into_connection_info().unwrap();
    let info = info.redis_settings().clone().set_skip_set_lib_name();
    let config = AsyncConnectionConfig::new();
    let (mut con, driver) = MultiplexedConnection::new_with_config(&info, ours, config)
        .await
        .unwrap();
    let driver = tokio::spawn(driver);
    let reply: String = replies.iter().map(|reply| format!("{reply}\r\n")).collect();
    let server = tokio::spawn(async move {
        let mut request = [0; 1024];
        assert_ne!(theirs.read(&mut request).await.unwrap(), 0);
        theirs.write_all(reply.as_bytes()).await.unwrap();
        theirs
    });
    let result = con
        .send_packed_commands(transaction, transaction.len() + 1, 1)
        .await;
    server.await.unwrap();
    driver.abort();
    result
}

/// A connection that has the answers.
struct Answers(Vec<Value>);

impl ConnectionLike for Answers {
    fn req_packed_command<'a>(&'a mut self, _: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async { Ok(self.0[0].clone()) })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        _: &'a Pipeline,
        _: usize,
        _: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async { Ok(self.0.clone()) })
    }

    fn get_db(&self) -> i64 {
        0
    }
}

const DENIED: Class = Class::NotExecuted(Refusal::Denied);
const CALLER: Class = Class::NotExecuted(Refusal::Caller);

// As Redis 7.0.15 words them.
const LOADING: &str = "-LOADING Redis is loading the dataset in memory";
const READONLY: &str = "-READONLY You can't write against a read only replica.";
const MASTERDOWN: &str =
    "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.";
const CLUSTERDOWN: &str = "-CLUSTERDOWN Hash slot not served";
const UNBLOCKED: &str = "-UNBLOCKED force unblock from blocking operation, instance state changed \
                         (master -> replica?)";
const OOM: &str = "-OOM command not allowed when used memory > 'maxmemory'.";
const MISCONF: &str = "-MISCONF Redis is configured to save RDB snapshots, but it's currently \
                       unable to persist to disk.";
const NOREPLICAS: &str = "-NOREPLICAS Not enough good replicas to write.";
const BUSY: &str = "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or \
                    SHUTDOWN NOSAVE.";
const TRYAGAIN: &str = "-TRYAGAIN Multiple keys request during rehashing of slot";
const MAXCLIENTS: &str = "-ERR max number of clients reached";
const NOAUTH: &str = "-NOAUTH Authentication required.";
const NOSCRIPT: &str = "-NOSCRIPT No matching script. Please use EVAL.";
const NOPERM: &str = "-NOPERM this user has no permissions to run the 'set' command";
const ARITY: &str = "-ERR wrong number of arguments for 'set' command";
const WRONGTYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value";
const BECAUSE: &str = "Transaction discarded because of: ";
