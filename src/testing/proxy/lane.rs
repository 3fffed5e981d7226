//! One direction of one connection: the bytes between two sockets.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// What a direction does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Read and delivered.
    Open,
    /// Read and kept.
    Held,
    /// Read and thrown away.
    Drain,
    /// Not even read.
    Shut,
}

impl Gate {
    /// Whether bytes get through sooner or later, so that a gap before them would show.
    pub(super) fn carries(self) -> bool {
        matches!(self, Gate::Open | Gate::Held)
    }
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Fin,
    Reset,
}

/// The bytes read from the source and not yet written to the destination.
#[derive(Debug, Default)]
pub(super) struct Lane {
    chunks: VecDeque<Chunk>,
    queued: usize,
    end: Option<(End, Instant)>,
    /// The end was passed on or swallowed.
    over: bool,
    /// Something of the stream will never arrive.
    torn: bool,
    /// The source was found to be reset; what it sent before is still to be read.
    source_died: bool,
}

#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    written: usize,
    read_at: Instant,
}

/// What a lane has for its destination.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head<'a> {
    Bytes(&'a [u8]),
    End(End),
    NotBefore(Instant),
    Nothing,
}

impl Lane {
    /// Whether the source should be read.
    pub(super) fn wants_more(&self) -> bool {
        self.end.is_none() && self.queued < CAPACITY
    }

    pub(super) fn push(&mut self, bytes: &[u8], now: Instant) {
        self.queued += bytes.len();
        self.chunks.push_back(Chunk {
            bytes: bytes.to_vec(),
            written: 0,
            read_at: now,
        });
    }

    /// Nothing follows what is queued.
    pub(super) fn finish(&mut self, end: End, now: Instant) {
        let end = if self.source_died { End::Reset } else { end };
        self.end = Some((end, now));
    }

    /// A write to the source failed: it is reset, which a read would report as a mere end now.
    pub(super) fn source_died(&mut self, now: Instant) {
        self.source_died = true;
        if let Some((End::Fin, _)) = self.end {
            self.finish(End::Reset, now);
            self.over = false;
        }
    }

    /// What is due at `now` when everything is delivered `delay` after it was read. The delay is
    /// added here rather than when reading, so that a change applies to bytes under way.
    pub(super) fn head(&self, now: Instant, delay: Duration) -> Head<'_> {
        let (read_at, head) = match (self.chunks.front(), self.end) {
            (Some(chunk), _) => (chunk.read_at, Head::Bytes(&chunk.bytes[chunk.written..])),
            (None, Some((end, read_at))) if !self.over => (read_at, Head::End(end)),
            (None, _) => return Head::Nothing,
        };
        match read_at + delay {
            due if due > now => Head::NotBefore(due),
            _ => head,
        }
    }

    /// `count` bytes of the head were written.
    pub(super) fn advance(&mut self, count: usize) {
        if let Some(chunk) = self.chunks.front_mut() {
            chunk.written += count;
            self.queued -= count;
            if chunk.written == chunk.bytes.len() {
                self.chunks.pop_front();
            }
        }
    }

    /// The end was passed on.
    pub(super) fn end_delivered(&mut self) {
        self.over = true;
    }

    /// Throws away what is queued, the end included.
    pub(super) fn swallow(&mut self) {
        self.torn |= self.has_undelivered();
        self.chunks.clear();
        self.queued = 0;
        self.over = self.end.is_some();
    }

    /// Notes that what the source sent is withheld from this lane.
    pub(super) fn tear(&mut self) {
        self.torn = true;
    }

    pub(super) fn has_undelivered(&self) -> bool {
        !self.chunks.is_empty() || (self.end.is_some() && !self.over)
    }

    /// Whether nothing will ever move here again.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn is_torn(&self) -> bool {
        self.torn
    }
}

/// Bytes kept per direction before the source is left unread and its sender meets back-pressure.
const CAPACITY: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Duration = Duration::ZERO;

    #[test]
    fn bytes_come_out_in_order_and_then_the_end() {
        let now = Instant::now();
        let mut lane = Lane::default();
        lane.push(b"ab", now);
        lane.push(b"c", now);
        lane.finish(End::Fin, now);

        assert_eq!(lane.head(now, NONE), Head::Bytes(b"ab"));
        lane.advance(1);
        assert_eq!(lane.head(now, NONE), Head::Bytes(b"b"));
        lane.advance(1);
        assert_eq!(lane.head(now, NONE), Head::Bytes(b"c"));
        lane.advance(1);
        assert_eq!(lane.head(now, NONE), Head::End(End::Fin));
        assert!(lane.has_undelivered());
        lane.end_delivered();
        assert_eq!(lane.head(now, NONE), Head::Nothing);
        assert!(lane.is_over() && !lane.has_undelivered() && !lane.is_torn());
    }

    #[test]
    fn a_changed_delay_applies_to_bytes_under_way() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut lane = Lane::default();
        lane.push(b"x", now);

        assert_eq!(lane.head(now, second), Head::NotBefore(now + second));
        assert_eq!(lane.head(now + second, second), Head::Bytes(b"x"));
        assert_eq!(lane.head(now, NONE), Head::Bytes(b"x"));
    }

    #[test]
    fn swallowing_tears_only_a_stream_that_had_something() {
        let now = Instant::now();
        let mut idle = Lane::default();
        idle.swallow();
        assert!(!idle.is_torn());

        let mut ended = Lane::default();
        ended.finish(End::Fin, now);
        ended.swallow();
        assert!(ended.is_torn() && ended.is_over());

        let mut busy = Lane::default();
        busy.push(b"x", now);
        busy.swallow();
        assert!(busy.is_torn() && !busy.is_over());
        assert_eq!(busy.head(now, NONE), Head::Nothing);
    }

    #[test]
    fn a_source_that_died_ends_with_a_reset() {
        let now = Instant::now();
        let mut lane = Lane::default();
        lane.source_died(now);
        assert!(lane.wants_more(), "what it sent before counts");
        lane.finish(End::Fin, now);
        assert_eq!(lane.head(now, NONE), Head::End(End::Reset));

        let mut half_closed = Lane::default();
        half_closed.finish(End::Fin, now);
        half_closed.end_delivered();
        half_closed.source_died(now);
        assert_eq!(half_closed.head(now, NONE), Head::End(End::Reset));
    }

    #[test]
    fn a_full_lane_stops_reading_until_bytes_leave() {
        let now = Instant::now();
        let mut lane = Lane::default();
        lane.push(&vec![0; CAPACITY], now);
        assert!(!lane.wants_more());
        lane.advance(1);
        assert!(lane.wants_more());
    }
}
