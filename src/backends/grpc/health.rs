//! The health checking protocol of gRPC.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

use super::line::{Line, is_loss};
use crate::engine::backend::{Fault, FaultKind, Verdict};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const SERVING: u8 = 1;
/// The caller's own time is up before.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn check(line: &Line, service: &str) -> Verdict {
    let fault = |kind, what: &str| Verdict::Unhealthy(Fault::new(kind, what));
    match ask(line, service).await {
        Ok(SERVING) => Verdict::Healthy,
        // Not to know it is no better, for a server that was asked.
        Ok(_) => fault(FaultKind::State, "it says that it does not serve"),
        Err(status) if is_loss(&status) => fault(FaultKind::Lost, "connection lost"),
        Err(status) => match status.code() {
            // It answers; it has nothing to say of its health, or of this service's.
            Code::Unimplemented => Verdict::Healthy,
            Code::Unauthenticated | Code::PermissionDenied => {
                fault(FaultKind::Denied, "credentials refused")
            }
            Code::Unavailable | Code::ResourceExhausted => fault(FaultKind::State, "unavailable"),
            code => fault(FaultKind::Other, &format!("answered {code:?}")),
        },
    }
}

/// The status that the server gives itself.
async fn ask(line: &Line, service: &str) -> Result<u8, Status> {
    let mut grpc = Grpc::new(line.channel());
    let lost = |error: tonic::transport::Error| Status::from_error(Box::new(error));
    grpc.ready().await.map_err(lost)?;
    let mut request = Request::new(message(service));
    request.set_timeout(PATIENCE);
    let asked = grpc.unary(request, PathAndQuery::from_static(CHECK), Plain);
    let answer = asked.await?.into_inner();
    // One field: 1, a number.
    Ok(match answer.as_ref() {
        [0x08, status, ..] => *status,
        _ => 0,
    })
}

/// One field: 1, text.
fn message(service: &str) -> Bytes {
    if service.is_empty() {
        return Bytes::new();
    }
    let mut message = vec![0x0A];
    let mut length = service.len();
    while length >= 0x80 {
        message.push(length.to_le_bytes()[0] | 0x80);
        length >>= 7;
    }
    message.push(length.to_le_bytes()[0]);
    message.extend_from_slice(service.as_bytes());
    message.into()
}

/// Messages as they are.
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}
