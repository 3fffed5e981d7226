//! The two databases and what can be done to them.

use std::collections::BTreeMap;
use std::fmt;

use multidb::testing::server::Server;

use crate::Failure;
use crate::real::RealRedis;

/// What the databases are called. The first has the higher weight.
pub(crate) const NAMES: [&str; 2] = ["east", "west"];
pub(crate) const TOKENS: &str = "demo:tokens";
pub(crate) const COUNTER: &str = "demo:counter";

/// Two independent databases, in the order of [`NAMES`].
pub(crate) struct Stage([Host; 2]);

enum Host {
    Embedded(Server),
    Real(RealRedis),
}

/// Something that happens to the active database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    Hang,
    BlackHole,
    ReadOnly,
    Loading,
    /// No fault: an operator moves the traffic away and lets it come back.
    PlannedSwitch,
}

/// What a database holds in the end.
pub(crate) struct Contents {
    pub(crate) tokens: Vec<String>,
    pub(crate) counter: u64,
}

// === impl Stage ===

impl Stage {
    pub(crate) async fn set_up(real: bool) -> Result<Self, Failure> {
        Ok(Self(if real {
            [
                Host::Real(RealRedis::start().await?),
                Host::Real(RealRedis::start().await?),
            ]
        } else {
            [
                Host::Embedded(Server::start().await?),
                Host::Embedded(Server::start().await?),
            ]
        }))
    }

    pub(crate) fn urls(&self) -> [String; 2] {
        self.0.each_ref().map(|host| match host {
            Host::Embedded(server) => server.url(),
            Host::Real(redis) => redis.proxy.url(),
        })
    }

    /// What can be done to databases of this kind, in the order of the show.
    pub(crate) fn repertoire(&self) -> &'static [Fault] {
        use Fault::{BlackHole, Hang, Kill, Loading, PlannedSwitch, ReadOnly};
        match self.0[0] {
            Host::Embedded(_) => &[Kill, Hang, BlackHole, ReadOnly, Loading, PlannedSwitch],
            Host::Real(_) => &[Kill, Hang, BlackHole, PlannedSwitch],
        }
    }

    pub(crate) fn inflict(&mut self, on: usize, fault: Fault) -> Result<(), Failure> {
        match (&mut self.0[on], fault) {
            (_, Fault::PlannedSwitch) => {}
            (Host::Embedded(server), Fault::Kill) => server.kill(),
            (Host::Embedded(server), Fault::Hang) => server.hang(),
            (Host::Embedded(server), Fault::BlackHole) => server.black_hole(),
            (Host::Embedded(server), Fault::ReadOnly) => server.read_only(true),
            (Host::Embedded(server), Fault::Loading) => server.loading(true),
            (Host::Real(redis), Fault::Kill) => redis.kill(),
            (Host::Real(redis), Fault::Hang) => redis.signal("STOP")?,
            (Host::Real(redis), Fault::BlackHole) => redis.proxy.black_hole(),
            (Host::Real(_), Fault::ReadOnly | Fault::Loading) => {
                return Err(format!("{fault} is not in the repertoire of real servers").into());
            }
        }
        Ok(())
    }

    pub(crate) async fn relieve(&mut self, of: usize, fault: Fault) -> Result<(), Failure> {
        match (&mut self.0[of], fault) {
            (_, Fault::PlannedSwitch) => {}
            (Host::Embedded(server), Fault::Kill) => server.revive().await?,
            (Host::Embedded(server), Fault::Hang) => server.resume(),
            (Host::Embedded(server), Fault::BlackHole) => server.heal(),
            (Host::Embedded(server), Fault::ReadOnly) => server.read_only(false),
            (Host::Embedded(server), Fault::Loading) => server.loading(false),
            (Host::Real(redis), Fault::Kill) => redis.restart().await?,
            (Host::Real(redis), Fault::Hang) => redis.signal("CONT")?,
            (Host::Real(redis), Fault::BlackHole) => redis.proxy.pass(),
            (Host::Real(_), Fault::ReadOnly | Fault::Loading) => {}
        }
        Ok(())
    }

    /// By name: a storage is looked into, a real server is asked over a connection of its own.
    pub(crate) async fn read_back(&self) -> Result<BTreeMap<&'static str, Contents>, Failure> {
        let mut all = BTreeMap::new();
        for (name, host) in NAMES.into_iter().zip(&self.0) {
            let contents = match host {
                Host::Embedded(server) => {
                    let storage = server.storage();
                    let tokens = storage.list(TOKENS).into_iter();
                    let counter = storage.counter(COUNTER).unwrap_or(0);
                    Contents {
                        tokens: tokens.map(String::from_utf8).collect::<Result<_, _>>()?,
                        counter: u64::try_from(counter)?,
                    }
                }
                Host::Real(redis) => redis.read_back().await?,
            };
            all.insert(name, contents);
        }
        Ok(all)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, (host, weight)) in NAMES.iter().zip(self.0.iter().zip(["1", "0.5"])) {
            let what = match host {
                Host::Embedded(server) => format!("in this program, {}", server.addr()),
                Host::Real(redis) => {
                    format!("redis-server {} behind {}", redis.addr, redis.proxy.addr())
                }
            };
            writeln!(f, "  {name}  weight {weight:<3}  {what}")?;
        }
        Ok(())
    }
}

// === impl Fault ===

impl Fault {
    /// Nothing is broken by it.
    pub(crate) fn is_planned(self) -> bool {
        self == Self::PlannedSwitch
    }

    /// What is done to `victim`, for people.
    pub(crate) fn act(self, victim: &str, other: &str) -> String {
        match self {
            Self::Kill => {
                format!("kill -9 {victim}: its connections are reset, nobody listens there")
            }
            Self::Hang => {
                format!("{victim} hangs: connections stay open, nothing is ever answered")
            }
            Self::BlackHole => {
                format!("black hole in front of {victim}: every packet vanishes without a sign")
            }
            Self::ReadOnly => {
                format!("{victim} turns read-only: PING says PONG, writes are refused")
            }
            Self::Loading => format!("{victim} is loading its data and refuses every command"),
            Self::PlannedSwitch => format!("an operator moves the traffic to {other}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kill => "kill",
            Self::Hang => "hang",
            Self::BlackHole => "black hole",
            Self::ReadOnly => "READONLY",
            Self::Loading => "LOADING",
            Self::PlannedSwitch => "planned switch",
        })
    }
}
