//! gRPC over HTTP/2: connections that the engine can watch and end.

mod line;

pub(crate) use line::{Http2, Line, Site, is_loss, never_ran};
