//! One connection, to be broken while the others go on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::process::{self, Ending, Shared};

/// A connection of a [`Server`](super::Server), as a test sees it: what is set here holds for this one
/// alone, and takes effect before the setter returns. Nothing happens to one that has ended.
///
/// ```
/// # use multidb::testing::server::Server;
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let server = Server::start().await?;
/// let _one = tokio::net::TcpStream::connect(server.addr()).await?;
/// # while server.clients().is_empty() { tokio::task::yield_now().await; }
/// let client = &server.clients()[0];
/// client.hang(true); // neither read nor answered, while others are
/// client.kill();
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    id: u64,
}

/// What is wrong with one connection; nothing by default.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) hung: bool,
    pub(super) lose_replies: bool,
    pub(super) latency: Duration,
}

impl Client {
    /// The connections of a server that have not ended, the oldest first.
    pub(super) fn all(shared: &Arc<Shared>) -> Vec<Self> {
        let process = shared.process();
        let alive = process.clients.iter().filter(|(_, c)| c.doom.is_none());
        alive
            .map(|(&id, _)| Self {
                shared: Arc::clone(shared),
                id,
            })
            .collect()
    }

    /// What `CLIENT ID` answers to it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it has called itself by `CLIENT SETNAME`, or nothing.
    #[must_use]
    pub fn name(&self) -> String {
        self.look(|client| client.name.clone())
    }

    /// Where it comes from, as `CLIENT LIST` shows it.
    #[must_use]
    pub fn address(&self) -> String {
        self.look(process::Client::address)
    }

    /// The last command it sent, in lower case, such as `client|info`; `NULL` before the first.
    #[must_use]
    pub fn last_command(&self) -> String {
        self.look(|client| client.command.to_owned())
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let process = self.shared.process();
        let client = process.clients.get(&self.id);
        client.is_some_and(|client| client.doom.is_none())
    }

    /// Resets it; as if a host on the way had forgotten it.
    pub fn kill(&self) {
        let mut process = self.shared.process();
        if let Some(client) = process.clients.get_mut(&self.id) {
            client.doom.get_or_insert(Ending::Reset);
            client.bell.notify_one();
            // What it waits for is not to be taken for nobody.
            let mut keyspace = self.shared.storage.lock();
            keyspace.forget(self.shared.id, Some(self.id));
        }
    }

    /// Whether it is neither read nor answered. What it sent meanwhile is executed afterwards.
    pub fn hang(&self, hang: bool) {
        self.change(|client| client.faults.hung = hang);
    }

    /// Whether its replies are lost: its commands are executed and never answered. Once it has lost
    /// one, it is reset when this is switched off.
    pub fn lose_replies(&self, lose: bool) {
        self.change(|client| client.faults.lose_replies = lose);
    }

    /// Delays its replies by so much, if the server's own latency is not longer.
    pub fn latency(&self, latency: Duration) {
        let latency = latency.min(super::LONGEST_LATENCY);
        self.change(|client| client.faults.latency = latency);
    }

    fn look(&self, what: impl FnOnce(&process::Client) -> String) -> String {
        let process = self.shared.process();
        process.clients.get(&self.id).map(what).unwrap_or_default()
    }

    fn change(&self, change: impl FnOnce(&mut process::Client)) {
        if let Some(client) = self.shared.process().clients.get_mut(&self.id) {
            change(client);
            client.bell.notify_one();
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.id)
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}
