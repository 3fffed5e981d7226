//! Our client, as a user writes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use multidb::redis::{Redis, from_redis};
use multidb::{ErrorKind, MultiDbClient, MultiDbConnection, Sensitivity};
use redis::{AsyncCommands, RedisResult};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

use crate::player::{Counted, OURS_FAST, Read, Who, now_ns};

pub(crate) struct Ours {
    client: MultiDbClient<Redis>,
    ids: [String; 2],
    reader: Option<JoinHandle<Read>>,
    listener: Option<(JoinHandle<()>, mpsc::UnboundedReceiver<Heard>)>,
    received: Vec<u64>,
    loading: Arc<AtomicBool>,
    callers: JoinSet<Counted>,
}

struct Heard {
    elsewhere: bool,
    number: u64,
    at_ns: u64,
}

const PAUSE: Duration = Duration::from_millis(5);

impl Ours {
    pub(crate) async fn connect(who: Who, addresses: &[String; 2]) -> Result<Self, String> {
        let mut builder = MultiDbClient::builder()
            .url(format!("redis://{}", addresses[0]), 1.0)
            .url(format!("redis://{}", addresses[1]), 0.5);
        if who == OURS_FAST {
            builder = builder.sensitivity(Sensitivity::Fast);
        }
        let client = builder.connect().await.map_err(|e| e.to_string())?;
        Ok(Self {
            client,
            ids: addresses.clone(),
            reader: None,
            listener: None,
            received: Vec::new(),
            loading: Arc::new(AtomicBool::new(false)),
            callers: JoinSet::new(),
        })
    }

    pub(crate) fn client(&self) -> &MultiDbClient<Redis> {
        &self.client
    }

    pub(crate) fn read(&mut self, key: &str) {
        let (mut con, key) = (self.client.connection(), key.to_owned());
        self.reader = Some(tokio::spawn(async move {
            let (mut failed, mut longest) = (0, Duration::ZERO);
            loop {
                let began = Instant::now();
                let name: RedisResult<String> = con.get(&key).await;
                let at_ns = now_ns();
                longest = longest.max(began.elapsed());
                match name.as_deref() {
                    Ok("b") => {
                        let longest_ms = longest.as_secs_f64() * 1e3;
                        return Read {
                            at_ns,
                            failed,
                            longest_ms,
                        };
                    }
                    Ok(_) => {}
                    Err(_) => failed += 1,
                }
                sleep(PAUSE).await;
            }
        }));
    }

    pub(crate) async fn elsewhere(&mut self) -> Result<Read, String> {
        let reader = self.reader.as_mut().ok_or("nobody reads")?;
        reader.await.map_err(|error| error.to_string())
    }

    pub(crate) async fn subscribe(&mut self, channel: &str) -> Result<(), String> {
        let told = |error: redis::RedisError| error.to_string();
        let mut pubsub = self.client.get_async_pubsub().await.map_err(told)?;
        pubsub.subscribe(channel).await.map_err(told)?;
        let (say, heard) = mpsc::unbounded_channel();
        let listener = tokio::spawn(async move {
            let mut messages = pubsub.on_message();
            while let Some(message) = messages.next().await {
                let at_ns = now_ns();
                let text: String = message.get_payload().expect("text");
                let (name, number) = text.split_once(':').expect("SERVER:NUMBER");
                let _ = say.send(Heard {
                    elsewhere: name == "b",
                    number: number.parse().expect("a number"),
                    at_ns,
                });
            }
        });
        self.listener = Some((listener, heard));
        Ok(())
    }

    pub(crate) async fn heard_elsewhere(&mut self) -> Result<u64, String> {
        let (_, heard) = self.listener.as_mut().ok_or("nobody listens")?;
        while let Some(news) = heard.recv().await {
            self.received.push(news.number);
            if news.elsewhere {
                return Ok(news.at_ns);
            }
        }
        Err("the messages ended".to_owned())
    }

    pub(crate) fn received(&mut self) -> Vec<u64> {
        let mut all = std::mem::take(&mut self.received);
        if let Some((listener, mut heard)) = self.listener.take() {
            listener.abort();
            while let Ok(news) = heard.try_recv() {
                all.push(news.number);
            }
        }
        all
    }

    pub(crate) async fn incr(&mut self, key: &str, callers: usize) -> Result<Counted, String> {
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (mut con, key) = (self.client.connection(), key.to_owned());
            tasks.spawn(async move { incr(&mut con, &key).await });
        }
        all(&mut tasks).await
    }

    pub(crate) fn load(&mut self, key: &str, callers: usize) {
        self.loading.store(true, Ordering::Release);
        for _ in 0..callers {
            let (mut con, key) = (self.client.connection(), key.to_owned());
            let loading = Arc::clone(&self.loading);
            self.callers.spawn(async move {
                let mut counted = Counted::default();
                while loading.load(Ordering::Acquire) {
                    counted.add(incr(&mut con, &key).await);
                }
                counted
            });
        }
    }

    pub(crate) async fn unload(&mut self) -> Result<Counted, String> {
        self.loading.store(false, Ordering::Release);
        all(&mut self.callers).await
    }

    pub(crate) async fn switch(&self, to: usize) -> Result<(), String> {
        let switched = self.client.switch_to(&self.ids[to]).await;
        switched.map_err(|error| error.to_string())
    }
}

async fn incr(con: &mut MultiDbConnection, key: &str) -> Counted {
    let done: RedisResult<i64> = con.incr(key, 1).await;
    let mut counted = Counted {
        issued: 1,
        acknowledged: u64::from(done.is_ok()),
        errors: BTreeMap::new(),
    };
    if let Err(error) = done {
        let kind = from_redis(&error).map(|ours| ours.kind().clone());
        let name = match kind {
            Some(ErrorKind::OutcomeUnknown(_)) => "OutcomeUnknown".to_owned(),
            _ => format!("{:?}", error.kind()),
        };
        counted.errors.insert(name, 1);
    }
    counted
}

async fn all(tasks: &mut JoinSet<Counted>) -> Result<Counted, String> {
    let mut sum = Counted::default();
    while let Some(done) = tasks.join_next().await {
        sum.add(done.map_err(|error| error.to_string())?);
    }
    Ok(sum)
}
