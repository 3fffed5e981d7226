//! Takes what stacks say of who serves to the machine, which decides.

// Held for a few instructions, never across an await.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::{OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::backend::E6data;
use super::colour::Colour;
use crate::engine::database::DatabaseId;
use crate::engine::live::{Core, Mail, VerbDraft};
use crate::engine::machine::Verb;

/// The same news again, from any number of answers, is passed on at most this often.
const PAUSE: Duration = Duration::from_millis(50);

/// Of one client.
#[derive(Default)]
pub(super) struct Herald {
    core: OnceLock<Weak<Core<E6data>>>,
    #[allow(clippy::disallowed_types)]
    last: Mutex<Option<(Instant, u64, Colour)>>,
}

impl Herald {
    /// The client that it belongs to. Until then nothing is passed on.
    pub(super) fn serve(&self, core: Weak<Core<E6data>>) {
        let _ = self.core.set(core);
    }

    /// How often the client has moved: news is as old as the request whose answer brought it.
    pub(super) fn generation(&self) -> u64 {
        let core = self.core.get().and_then(Weak::upgrade);
        core.map_or(0, |core| core.current().snapshot.generation)
    }

    /// An answer of `from` to a request made at `generation` named a colour as the one that serves.
    ///
    /// Only the one that serves is believed, and before the first choice anybody: a stack that was left
    /// speaks of the past.
    pub(super) fn hear(&self, from: &DatabaseId, said: Option<&str>, generation: u64) {
        let Some(colour) = said.and_then(Colour::named) else {
            return;
        };
        let Some(core) = self.core.get().and_then(Weak::upgrade) else {
            return;
        };
        let routing = core.current();
        let snapshot = &routing.snapshot;
        let heeded = snapshot.active.as_ref().is_none_or(|active| active == from);
        if !heeded || snapshot.generation != generation {
            return;
        }
        let named = |id: &Option<DatabaseId>| id.as_ref().and_then(Colour::of);
        let (active, directed) = (named(&snapshot.active), named(&snapshot.directed_to));
        // Known, and followed as well as it can be.
        if directed == Some(colour) || directed.is_none() && active == Some(colour) {
            return;
        }
        let Ok(to) = DatabaseId::new(colour.as_str()) else {
            return;
        };
        if self.is_news(generation, colour) {
            let (answer, _) = oneshot::channel();
            let _ = core.mailbox.send(Mail::Order {
                database: None,
                verb: VerbDraft::Ready(Verb::Direct {
                    to,
                    observed: generation,
                    cause: format!("{from} announced it"),
                }),
                answer,
            });
        }
    }

    fn is_news(&self, generation: u64, colour: Colour) -> bool {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.is_some_and(|(at, of, which)| {
            (of, which) == (generation, colour) && now.duration_since(at) < PAUSE
        });
        if !known {
            *last = Some((now, generation, colour));
        }
        !known
    }
}
