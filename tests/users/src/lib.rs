//! Nothing: `tests` has other people's crates run on `multidb`, `benches` what they offer beside it.
