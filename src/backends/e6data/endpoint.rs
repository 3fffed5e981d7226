//! Where a stack is, who asks it, and how.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};

use super::colour::Colour;
use crate::backends::grpc::Site;

/// One stack: an endpoint with the headers and credentials that make it that stack. Made by
/// [`E6dataBuilder`](super::E6dataBuilder); its `Debug` shows no secret.
#[derive(Clone)]
pub struct E6dataEndpoint(pub(super) Arc<Facts>);

pub(super) struct Facts {
    pub(super) site: Site,
    /// `None`: the cluster has one stack, and is not asked for a colour.
    pub(super) colour: Option<Colour>,
    pub(super) cluster_name: Option<MetadataValue<Ascii>>,
    pub(super) credentials: Arc<Credentials>,
    pub(super) check: StackCheck,
    pub(super) lenient: bool,
    /// The largest message that is taken.
    pub(super) max_receive: usize,
    pub(super) max_send: usize,
    /// How long an rpc that no caller waits for may take: authentication within another call, clean-up.
    pub(super) patience: Duration,
}

pub(super) enum Credentials {
    Password {
        user: String,
        password: String,
    },
    /// A bearer token in place of a session.
    Bearer(MetadataValue<Ascii>),
}

/// How a stack is asked whether it serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StackCheck {
    /// It is asked for a session, which is kept ready for the first query. The default with a password.
    #[default]
    Authenticate,
    /// By the rpc `healthCheck`; a server that does not have it is alive. The only way with a bearer token.
    HealthCheck,
}

impl E6dataEndpoint {
    /// The colour of its stack; `None` where there is one stack only.
    #[must_use]
    pub fn colour(&self) -> Option<Colour> {
        self.0.colour
    }
}

impl fmt::Debug for E6dataEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("E6dataEndpoint")
            .field("site", &self.0.site.name())
            .field("colour", &self.0.colour)
            .field("cluster_name", &self.0.cluster_name)
            .finish_non_exhaustive()
    }
}
