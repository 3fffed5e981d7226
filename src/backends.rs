//! One folder per driver. A backend knows the engine; the engine and the other backends know nothing of it.

#[cfg(feature = "e6data")]
pub mod e6data;
#[cfg(feature = "grpc")]
pub mod grpc;
#[cfg(feature = "redis")]
pub mod redis;
