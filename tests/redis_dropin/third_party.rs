//! Shapes in which other crates take a connection. They compile against the trait alone.

use std::pin::Pin;

use multidb::{MultiDbClient, MultiDbConnection};
use redis::aio::ConnectionLike;
use redis::{AsyncCommands, RedisFuture, RedisResult, Script, Value, cmd, pipe};

use crate::{Databases, serving};

/// A job queue: owns a connection of any kind and clones it into its workers.
#[derive(Clone)]
struct Storage<C> {
    con: C,
    push: Script,
}

impl<C> Storage<C>
where
    C: ConnectionLike + Send + Sync + Clone + 'static,
{
    fn new(con: C) -> Self {
        let push = Script::new(
            "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) return redis.call('LPUSH', KEYS[2], ARGV[1])",
        );
        Self { con, push }
    }

    async fn push(&mut self, id: &str, job: &str) -> RedisResult<i64> {
        let mut call = self.push.key("jobs");
        call.key("waiting").arg(id).arg(job);
        call.invoke_async(&mut self.con).await
    }

    fn consume(&self) -> tokio::task::JoinHandle<RedisResult<String>> {
        let mut con = self.con.clone();
        tokio::spawn(async move {
            let (_, id): (String, String) = con.brpop("waiting", 5.0).await?;
            con.hget("jobs", id).await
        })
    }
}

/// A cache: borrows whatever connection it is handed.
async fn cached<C: ConnectionLike + Send>(con: &mut C, key: &str) -> RedisResult<String> {
    let (fresh, value): (bool, String) = pipe()
        .cmd("SET")
        .arg(key)
        .arg("made")
        .arg("NX")
        .cmd("GET")
        .arg(key)
        .query_async(con)
        .await
        .map(|(set, value): (Option<String>, String)| (set.is_some(), value))?;
    Ok(format!(
        "{value}, {}",
        if fresh { "fresh" } else { "known" }
    ))
}

/// A pool, as crates with a factory of connections have it.
trait Factory {
    type Connection: ConnectionLike + Send;
    fn create(&self) -> impl Future<Output = RedisResult<Self::Connection>> + Send;
}

impl Factory for MultiDbClient<multidb::redis::Redis> {
    type Connection = MultiDbConnection;

    async fn create(&self) -> RedisResult<MultiDbConnection> {
        self.get_multiplexed_async_connection().await
    }
}

/// A layer: adds something and delegates, as wrappers of connections do.
struct Prefixed<C> {
    inner: C,
    calls: usize,
}

impl<C: ConnectionLike> ConnectionLike for Prefixed<C> {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a redis::Cmd) -> RedisFuture<'a, Value> {
        self.calls += 1;
        self.inner.req_packed_command(cmd)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a redis::Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.calls += 1;
        self.inner.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.inner.get_db()
    }
}

/// Code that has erased the type of its connection.
fn erased<'a>(
    con: &'a mut (dyn ConnectionLike + Send),
    words: &'a [&'a str],
) -> Pin<Box<dyn Future<Output = RedisResult<Value>> + Send + 'a>> {
    Box::pin(async move {
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        con.req_packed_command(&command).await
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crates_that_are_generic_over_a_connection_take_ours_and_go_on_after_a_failover() {
    let mut databases = Databases::start().await;
    let client = databases.client().await;
    let mut storage = Storage::new(client.connection());
    let mut layered = Prefixed {
        inner: client.create().await.unwrap(),
        calls: 0,
    };
    let mut boxed: Box<dyn ConnectionLike + Send> = Box::new(client.connection());
    for round in 1..=2 {
        let worker = storage.consume();
        assert_eq!(storage.push("1", "sweep the yard").await.unwrap(), 1);
        assert_eq!(worker.await.unwrap().unwrap(), "sweep the yard");
        let mut manager = client.get_connection_manager().await.unwrap();
        assert_eq!(cached(&mut manager, "c").await.unwrap(), "made, fresh");
        assert_eq!(cached(&mut manager, "c").await.unwrap(), "made, known");
        assert_eq!(cached(&mut layered, "c").await.unwrap(), "made, known");
        assert_eq!(layered.calls, round);

        let reply = erased(boxed.as_mut(), &["ECHO", "erased"]).await.unwrap();
        assert_eq!(reply, Value::BulkString(b"erased".to_vec()));
        let mut scan = cmd("SSCAN");
        scan.arg("empty").cursor_arg(0);
        let mut items = scan.iter_async::<String>(boxed.as_mut()).await.unwrap();
        assert!(items.next_item().await.is_none());
        drop(items);
        assert_eq!(boxed.get_db(), 0);
        if round == 1 {
            databases.east.kill();
            serving(&client, &databases.west_id()).await;
        }
    }
    client.close().await;
}
