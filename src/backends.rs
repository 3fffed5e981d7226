//! One folder per driver. A backend knows the engine; the engine and the other backends know nothing of it.

#[cfg(feature = "redis")]
pub mod redis;
