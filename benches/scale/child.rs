//! Work of a process of its own, to be counted from outside.

use std::time::Duration;

use multidb::redis::Redis;
use multidb::redis::RedisEndpoint;
use multidb::{Config, Database, MultiDbClient, StartPolicy};
use redis::AsyncCommands;
use tokio::task::JoinSet;

use crate::clients::{Habit, SMALL, Shape, bare, drive, key};

/// Marks such a process.
pub(crate) const CHILD: &str = "--child";

/// What it does. `members: 0` is a bare connection.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// So many commands by so many callers, while nobody probes.
    Commands {
        members: usize,
        callers: usize,
        commands: usize,
        url: String,
    },
    /// Members are connected, and the process exits as it stands.
    Members { members: usize, url: String },
    /// So many handles beside.
    Handles {
        members: usize,
        handles: usize,
        url: String,
    },
    /// So many calls wait for a server that sleeps.
    InFlight {
        members: usize,
        calls: usize,
        url: String,
    },
    /// Nothing; tells the processor time that it took, in seconds per second.
    Idle { members: usize, url: String },
}

impl Work {
    pub(crate) fn args(&self) -> Vec<String> {
        let numbers = |name: &str, numbers: &[usize], url: &String| {
            let mut args = vec![CHILD.to_owned(), name.to_owned(), url.clone()];
            args.extend(numbers.iter().map(ToString::to_string));
            args
        };
        match self {
            Self::Commands {
                members,
                callers,
                commands,
                url,
            } => numbers("commands", &[*members, *callers, *commands], url),
            Self::Members { members, url } => numbers("members", &[*members], url),
            Self::Handles {
                members,
                handles,
                url,
            } => numbers("handles", &[*members, *handles], url),
            Self::InFlight {
                members,
                calls,
                url,
            } => numbers("in-flight", &[*members, *calls], url),
            Self::Idle { members, url } => numbers("idle", &[*members], url),
        }
    }

    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        let [name, url, numbers @ ..] = args else {
            return Err(format!("{CHILD} takes more than {args:?}"));
        };
        let url = url.clone();
        let numbers = numbers.iter().map(|text| text.parse());
        let numbers: Vec<usize> = numbers
            .collect::<Result<_, _>>()
            .map_err(|_| format!("not all numbers: {args:?}"))?;
        match (name.as_str(), numbers.as_slice()) {
            ("commands", &[members, callers, commands]) => Ok(Self::Commands {
                members,
                callers,
                commands,
                url,
            }),
            ("members", &[members]) => Ok(Self::Members { members, url }),
            ("handles", &[members, handles]) => Ok(Self::Handles {
                members,
                handles,
                url,
            }),
            ("in-flight", &[members, calls]) => Ok(Self::InFlight {
                members,
                calls,
                url,
            }),
            ("idle", &[members]) => Ok(Self::Idle { members, url }),
            _ => Err(format!("no work is called {args:?}")),
        }
    }

    /// How many commands it really is: every caller sends as many as every other.
    pub(crate) fn commands(&self) -> usize {
        match self {
            Self::Commands {
                callers, commands, ..
            } => commands / callers * callers,
            _ => 0,
        }
    }

    pub(crate) fn run(self) -> Result<(), String> {
        // The C library takes short cuts while a process has but one thread. Ours starts one.
        std::thread::spawn(std::thread::park);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("no runtime: {error}"))?;
        runtime.block_on(async {
            match self {
                Self::Commands {
                    members: 0,
                    callers,
                    commands,
                    url,
                } => drive(&bare(&url).await, GET, Habit::Keep, callers, commands).await,
                Self::Commands {
                    members,
                    callers,
                    commands,
                    url,
                } => {
                    let con = client(members, &url, quiet()).await.connection();
                    drive(&con, GET, Habit::Keep, callers, commands).await;
                }
                Self::Members { members, url } => {
                    let _client = client(members, &url, quiet()).await;
                    std::process::exit(0);
                }
                Self::Handles {
                    members: 0,
                    handles,
                    url,
                } => {
                    let con = bare(&url).await;
                    let _handles = vec![con; handles];
                    std::process::exit(0);
                }
                Self::Handles {
                    members,
                    handles,
                    url,
                } => {
                    let con = client(members, &url, quiet()).await.connection();
                    let _handles = vec![con; handles];
                    std::process::exit(0);
                }
                Self::InFlight {
                    members: 0,
                    calls,
                    url,
                } => {
                    let mut con = bare(&url).await;
                    con.set_response_timeout(HOUR);
                    wait_in_vain(con, calls, &url).await;
                }
                Self::InFlight {
                    members,
                    calls,
                    url,
                } => {
                    let con = client(members, &url, quiet()).await.connection();
                    wait_in_vain(con, calls, &url).await;
                }
                Self::Idle { members, url } => {
                    let _client = client(members, &url, Config::default()).await;
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    let before = processor_time()?;
                    tokio::time::sleep(IDLE).await;
                    let used = processor_time()? - before;
                    println!("{}", used.as_secs_f64() / IDLE.as_secs_f64());
                }
            }
            Ok(())
        })
    }
}

/// All members are the same server, under other names.
async fn client(members: usize, url: &str, mut config: Config) -> MultiDbClient<Redis> {
    config.start.policy = StartPolicy::All;
    config.start.deadline = HOUR;
    let mut builder = MultiDbClient::builder().config(config);
    for member in 0..members {
        let endpoint = RedisEndpoint::parse(url).expect("a URL of ours");
        let database = Database::new(format!("m{member}"), endpoint).expect("a name");
        builder = builder.database(database);
    }
    let client = builder.connect().await.expect("a server of ours");
    let all = client.wait_for(|now| now.members.iter().all(|member| member.connected));
    all.await.expect("an open client");
    client
}

/// Nothing happens but what callers do, however slow the process is.
fn quiet() -> Config {
    let mut config = Config::default();
    config.calls.connect_timeout = HOUR;
    config.calls.response_timeout = HOUR;
    config.calls.deadline = HOUR;
    config.health.interval = HOUR;
    config.health.max_backoff = HOUR;
    config.health.timeout = HOUR;
    config
}

const GET: Shape = Shape::Value(SMALL);
const HOUR: Duration = Duration::from_secs(3600);
const IDLE: Duration = Duration::from_secs(10);

/// Puts the server to sleep, lets so many calls wait for it, and exits as things stand.
async fn wait_in_vain<C>(con: C, calls: usize, url: &str)
where
    C: redis::aio::ConnectionLike + Clone + Send + Sync + 'static,
{
    let mut beside = bare(url).await;
    beside.set_response_timeout(HOUR);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _: redis::RedisResult<()> = redis::cmd("DEBUG")
            .arg("SLEEP")
            .arg(1000)
            .query_async(&mut beside)
            .await;
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    for _ in 0..calls {
        let mut con = con.clone();
        tasks.spawn(async move {
            let _: redis::RedisResult<Vec<u8>> = con.get(key(SMALL)).await;
        });
    }
    // Until all of them have been handed to the driver and written.
    tokio::time::sleep(Duration::from_secs(3)).await;
    std::process::exit(0);
}

/// Of all threads, as the kernel booked it.
fn processor_time() -> Result<Duration, String> {
    let problem = |error: std::io::Error| format!("no processor time: {error}");
    let mut used = 0;
    for task in std::fs::read_dir("/proc/self/task").map_err(problem)? {
        let path = task.map_err(problem)?.path().join("schedstat");
        let text = std::fs::read_to_string(path).map_err(problem)?;
        let running: Option<u64> = text.split(' ').next().and_then(|text| text.parse().ok());
        used += running.ok_or_else(|| format!("not a time: {text:?}"))?;
    }
    Ok(Duration::from_nanos(used))
}
