//! What the fuzz targets reach of what is private: there in their builds only.

use tonic::Status;

use super::classify::{self, Kind};
use super::decode::{self, Batch, Column, ColumnType, DecodeError, Metadata};
use super::wire::{Answer, ClusterResponse, ExecuteStatementResponse, StatusResponse};
use crate::engine::backend::{Class, Phase, Verdict};

/// The columns of a result.
pub fn metadata(bytes: &[u8]) -> Result<Metadata, DecodeError> {
    decode::metadata(bytes)
}

/// The rows of a batch.
pub fn batch(bytes: &[u8], metadata: &Metadata) -> Result<Option<Batch>, DecodeError> {
    decode::batch(bytes, metadata)
}

/// A column for every byte, of the kind that it stands for.
pub fn metadata_of(kinds: &[u8]) -> Metadata {
    let mut all = decode::every_kind().to_vec();
    all.push(ColumnType::Other("INT96".to_owned()));
    let kind = |byte: &u8| all[usize::from(*byte) % all.len()].clone();
    let columns: Vec<_> = kinds
        .iter()
        .map(|byte| Column::new("c", kind(byte)))
        .collect();
    Metadata {
        rows: 0,
        columns: columns.into(),
    }
}

/// What answers of several kinds announce, read from the same bytes.
pub fn announced(bytes: &[u8]) -> Vec<String> {
    fn of<A: Answer>(bytes: &[u8]) -> Option<String> {
        let answer = A::decode(bytes).ok()?;
        let _ = answer.next_session();
        answer.announced().map(str::to_owned)
    }
    let all = [
        of::<ExecuteStatementResponse>(bytes),
        of::<StatusResponse>(bytes),
        of::<ClusterResponse>(bytes),
    ];
    all.into_iter().flatten().collect()
}

/// What became of a statement whose execution ended with this status.
pub fn class_of_execute(status: &Status, lenient: bool) -> Class {
    classify::class(Phase::Answered, Some(status), Kind::Once, lenient)
}

/// What a health check that ended with this status found.
pub fn verdict(status: &Status, lenient: bool) -> Verdict {
    classify::verdict(status, lenient)
}
