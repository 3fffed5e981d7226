//! The nodes that a cluster is found by.

use std::fmt;
// Held for a few instructions.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::PoisonError;

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::keeper::{Nodes, Opened, layout};
use super::slots::Layout;
use crate::backends::redis::endpoint::RedisEndpoint;
use crate::backends::redis::endpoint::place::{Address, list};
use crate::backends::redis::server::Opener;
use crate::engine::backend::{Fault, FaultKind, Purpose, Wiring};

/// The nodes that a cluster is found by.
#[derive(Debug)]
#[allow(clippy::disallowed_types)]
pub(crate) struct Seeds {
    given: Vec<Address>,
    /// The primaries that were seen last: those given may be gone by then.
    known: Mutex<Vec<Address>>,
}

const MOST_KNOWN: usize = 16;

impl Seeds {
    #[allow(clippy::disallowed_types)]
    pub(crate) fn new(given: Vec<Address>) -> Self {
        Self {
            given,
            known: Mutex::default(),
        }
    }

    #[cfg(feature = "redis-rustls")]
    pub(crate) fn given(&self) -> &[Address] {
        &self.given
    }

    pub(super) fn know(&self, layout: &Layout) {
        let primaries = layout.primaries().into_iter().take(MOST_KNOWN).cloned();
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = primaries.collect();
    }

    fn all(&self) -> Vec<Address> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = self.given.clone();
        all.extend(
            known
                .iter()
                .filter(|node| !self.given.contains(node))
                .cloned(),
        );
        all
    }

    /// A node of the cluster that answers.
    pub(crate) async fn find(
        &self,
        opener: &Opener,
        endpoint: &RedisEndpoint,
        wiring: &Wiring,
    ) -> Result<RedisEndpoint, Fault> {
        let nodes = Nodes {
            opener: opener.clone(),
            endpoint: endpoint.clone(),
            wiring: Wiring::new(Purpose::Probe, wiring.response_timeout),
        };
        let (address, _, _) = self.discover(&nodes).await?;
        endpoint.at(address)
    }

    /// A node that answers, and who serves which slots by its word. Asks the one at `first`, if there is
    /// one that ought to know best.
    pub(crate) async fn look(
        &self,
        opener: &Opener,
        endpoint: &RedisEndpoint,
        wiring: &Wiring,
        first: Option<Address>,
    ) -> Result<(Address, Layout), Fault> {
        let nodes = Nodes {
            opener: opener.clone(),
            endpoint: endpoint.clone(),
            wiring: Wiring::new(Purpose::Probe, wiring.response_timeout),
        };
        if let Some(address) = first
            && let Ok(opened) = nodes.open(&address).await
            && let Ok(layout) = layout(&opened.handle, &address).await
        {
            return Ok((address, layout));
        }
        let (address, _, layout) = self.discover(&nodes).await?;
        self.know(&layout);
        Ok((address, layout))
    }

    /// Asks all seeds at once, and believes the first that knows who serves what.
    pub(super) async fn discover(&self, nodes: &Nodes) -> Result<(Address, Opened, Layout), Fault> {
        let mut asked: FuturesUnordered<_> = (self.all().into_iter())
            .map(|address| async move {
                let opened = nodes.open(&address).await?;
                let layout = layout(&opened.handle, &address).await?;
                Ok((address, opened, layout))
            })
            .collect();
        let mut last = Fault::new(FaultKind::Unreachable, "no node answers");
        while let Some(found) = asked.next().await {
            match found {
                Ok(found) => return Ok(found),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }
}

/// `host:port,host:port`
impl fmt::Display for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&list(&self.given))
    }
}
