//! One connection: reads requests, executes what has arrived, writes the replies.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::process::{Ending, Process, Shared};
use super::resp::{Reply, parse};
use super::session::{Blocked, Context, Outcome, Session};
use super::waiting::Served;

/// One connection over any byte stream.
#[derive(Debug)]
pub(super) struct Connection<S> {
    stream: S,
    session: Session,
    bell: Arc<Notify>,
    input: Vec<u8>,
    /// Replies that are due; the first `sent` bytes are written.
    output: Reply,
    sent: usize,
    /// Replies held back by the server's latency, in order.
    delayed: VecDeque<(Instant, Vec<u8>)>,
    /// The first request waits for a pause to end.
    paused_until: Option<Instant>,
    /// The end of a blocking command, until its reply can be written.
    served: Option<Served>,
    /// The latest black hole this connection has come out of.
    holes: u64,
    /// Bytes were swallowed: the stream cannot go on.
    lossy: bool,
    /// How to end once everything is written.
    ending: Option<Ending>,
}

/// What a connection does next.
enum Next {
    /// Nothing, until somebody rings.
    Hang,
    Swallow,
    ComeOut(u64),
    Wait,
    End(Ending),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Registers `stream` as a connection of a live server; a killed one gives it back.
    pub(super) fn open(
        shared: &Arc<Shared>,
        stream: S,
        peer: Option<SocketAddr>,
    ) -> Result<Self, S> {
        let mut process = shared.process();
        if !process.alive {
            return Err(stream);
        }
        let (id, bell) = process.admit(peer);
        let holes = process.faults.holes;
        // One that is made inside a black hole has to come out of it like any other.
        let holes = holes - u64::from(process.faults.black_hole);
        drop(process);
        Ok(Self {
            stream,
            session: Session::new(id, Arc::clone(shared)),
            bell,
            input: Vec::new(),
            output: Reply::default(),
            sent: 0,
            delayed: VecDeque::new(),
            paused_until: None,
            served: None,
            holes,
            lossy: false,
            ending: None,
        })
    }

    /// Serves until the connection ends; the stream is to be ended in the way told.
    pub(super) async fn serve(mut self) -> (S, Ending) {
        let ending = loop {
            match self.advance() {
                Next::Hang => self.bell.notified().await,
                Next::Swallow => {
                    if self.swallow().await.is_err() {
                        break Ending::Close;
                    }
                }
                Next::ComeOut(holes) => {
                    if self.come_out(holes).await.is_err() {
                        break Ending::Close;
                    }
                }
                Next::Wait => {
                    if self.wait().await.is_err() {
                        break Ending::Close;
                    }
                }
                Next::End(ending) => break ending,
            }
        };
        (self.stream, ending)
    }

    /// Executes what has arrived, as far as the server's state allows; never waits.
    fn advance(&mut self) -> Next {
        let shared = Arc::clone(&self.session.shared);
        let mut process = shared.process();
        let Some(client) = process.clients.get(&self.session.id) else {
            return Next::End(Ending::Reset);
        };
        if let Some(doom) = client.doom {
            return Next::End(doom);
        }
        let (own, faults) = (&client.faults, &process.faults);
        if faults.hung || own.hung {
            return Next::Hang;
        }
        let latency = faults.latency.max(own.latency);
        let lose_replies = faults.lose_replies || own.lose_replies;
        if faults.black_hole {
            self.lossy |= process.take_pushed(self.session.id).is_some();
            return Next::Swallow;
        }
        if self.holes != faults.holes {
            return Next::ComeOut(faults.holes);
        }
        if self.lossy && !lose_replies {
            return Next::End(Ending::Reset);
        }
        let start = self.output.bytes.len();
        self.end_wait(&mut process);
        if self.session.blocked.is_none() && !self.input.is_empty() {
            self.execute(&mut process);
        }
        // What was published meanwhile follows what was answered.
        if let Some(mut pushed) = process.take_pushed(self.session.id) {
            self.output.bytes.append(&mut pushed);
        }
        drop(process);
        if self.session.closing {
            self.ending.get_or_insert(Ending::Close);
        }

        let now = Instant::now();
        if lose_replies {
            self.lossy |= self.swallow_output();
        } else if self.output.bytes.len() > start
            && (!latency.is_zero() || !self.delayed.is_empty())
        {
            // Should latency have become shorter, the reply still waits behind earlier ones.
            let reply = self.output.bytes.split_off(start);
            self.delayed.push_back((now + latency, reply));
        }
        while let Some((due, reply)) = self.delayed.front_mut()
            && *due <= now
        {
            self.output.bytes.append(reply);
            self.delayed.pop_front();
        }
        match self.ending {
            Some(ending) if self.output.bytes.is_empty() && self.delayed.is_empty() => {
                Next::End(ending)
            }
            _ => Next::Wait,
        }
    }

    /// Answers the blocking command that was served or has timed out.
    fn end_wait(&mut self, process: &mut Process) {
        let expired = (self.session.blocked.as_ref())
            .and_then(|blocked| blocked.deadline)
            .is_some_and(|deadline| deadline <= Instant::now());
        if expired && self.served.is_none() {
            let shared = Arc::clone(&self.session.shared);
            // Not given up means served at the last moment: then the reply is on its way.
            if let Some(blocked) = self.session.give_up(&mut shared.storage.lock()) {
                self.served = Some(Served {
                    reply: blocked.on_timeout,
                    close: false,
                });
            }
        }
        if let Some(served) = self.served.take() {
            self.session.blocked = None;
            let start = self.output.bytes.len();
            self.output.bytes.extend(served.reply);
            self.session.closing |= served.close;
            self.cut(process, start);
        }
    }

    /// Executes all complete requests in the input, under both locks.
    fn execute(&mut self, process: &mut Process) {
        let shared = Arc::clone(&self.session.shared);
        let mut keyspace = shared.storage.lock();
        let input = std::mem::take(&mut self.input);
        let mut args = Vec::new();
        let mut at = 0;
        self.paused_until = None;
        while self.ending.is_none() && !self.session.closing && self.session.blocked.is_none() {
            let start = self.output.bytes.len();
            match parse(&input[at..], &mut args) {
                Ok(None) => break,
                Ok(Some(length)) => {
                    let mut context = Context {
                        session: &mut self.session,
                        process: &mut *process,
                        keyspace: &mut keyspace,
                        out: &mut self.output,
                    };
                    if !args.is_empty() && context.execute(&args) == Outcome::Postponed {
                        self.paused_until = process.pause.map(|pause| pause.until);
                        break;
                    }
                    at += length;
                }
                Err(refusal) => {
                    self.output.refuse(&refusal);
                    self.session.closing = true;
                }
            }
            self.cut(process, start);
        }
        Context {
            session: &mut self.session,
            process,
            keyspace: &mut keyspace,
            out: &mut self.output,
        }
        .describe();
        drop(keyspace);
        self.input = input;
        self.input.drain(..at);
    }

    /// Cuts the reply that begins at `start` if one is to be cut.
    fn cut(&mut self, process: &mut Process, start: usize) {
        if self.output.bytes.len() > start
            && let Some(length) = process.faults.cut_after.take()
        {
            self.output.bytes.truncate(start + length);
            self.ending = Some(Ending::Reset);
        }
    }

    /// Reads, writes and waits until there is something to decide anew. `Err` is a broken stream.
    async fn wait(&mut self) -> io::Result<()> {
        let waiting = self.session.blocked.is_some() || self.paused_until.is_some();
        // While its request waits, a connection is read only to learn that the peer has gone.
        let reading = self.ending.is_none() && !(waiting && self.input.len() >= READ_AHEAD);
        let alarm = [
            self.delayed.front().map(|(due, _)| *due),
            self.session.blocked.as_ref().and_then(|b| b.deadline),
            self.paused_until,
        ];
        let alarm = alarm.into_iter().flatten().min();
        loop {
            let unsent = &self.output.bytes[self.sent..];
            tokio::select! {
                biased;
                () = self.bell.notified() => return Ok(()),
                moved = transfer(&mut self.stream, &mut self.input, reading, unsent) => {
                    match moved? {
                        Moved::Read(0) | Moved::Wrote(0) => {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                        Moved::Read(_) => return Ok(()),
                        Moved::Wrote(count) => self.sent += count,
                    }
                }
                served = served(&mut self.session.blocked), if self.served.is_none() => {
                    self.served = Some(served);
                    return Ok(());
                }
                () = sound(alarm) => return Ok(()),
            }
            if self.sent == self.output.bytes.len() {
                self.output.bytes.clear();
                self.sent = 0;
                if self.ending.is_some() {
                    return Ok(());
                }
            }
        }
    }

    /// Lets everything disappear, in both directions, until somebody rings.
    async fn swallow(&mut self) -> io::Result<()> {
        self.lossy |= self.swallow_output() || !self.input.is_empty();
        self.input.clear();
        self.paused_until = None;
        tokio::select! {
            biased;
            () = self.bell.notified() => Ok(()),
            moved = transfer(&mut self.stream, &mut self.input, true, &[]) => match moved? {
                Moved::Read(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Moved::Read(_) | Moved::Wrote(_) => Ok(()),
            },
        }
    }

    /// Comes out of a black hole: what had arrived by its end is lost as well.
    async fn come_out(&mut self, holes: u64) -> io::Result<()> {
        self.lossy |= self.swallow_output() || !self.input.is_empty();
        self.input.clear();
        // A reply that fell due inside the hole.
        if let Some(blocked) = &mut self.session.blocked {
            self.lossy |= blocked.served.try_recv().is_ok();
        }
        // The runtime looks for arrived bytes between tasks, so let it.
        yield_now().await;
        let arrived = poll_fn(|cx| {
            let moved = transfer(&mut self.stream, &mut self.input, true, &[]);
            Poll::Ready(match pin!(moved).poll(cx) {
                Poll::Ready(moved) => Some(moved),
                Poll::Pending => None,
            })
        });
        if let Some(moved) = arrived.await {
            if let Moved::Read(0) = moved? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.lossy = true;
        }
        self.holes = holes;
        Ok(())
    }

    /// Drops all replies not yet written; whether there were any.
    fn swallow_output(&mut self) -> bool {
        let any = !self.output.bytes.is_empty() || !self.delayed.is_empty();
        self.output.bytes.clear();
        self.sent = 0;
        self.delayed.clear();
        any
    }
}

enum Moved {
    Read(usize),
    Wrote(usize),
}

/// Writes what there is to write or else reads, whichever is possible first. Cancel-safe: what is
/// not returned has not happened.
async fn transfer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    input: &mut Vec<u8>,
    reading: bool,
    output: &[u8],
) -> io::Result<Moved> {
    poll_fn(|cx| {
        if !output.is_empty()
            && let Poll::Ready(wrote) = Pin::new(&mut *stream).poll_write(cx, output)
        {
            return Poll::Ready(wrote.map(Moved::Wrote));
        }
        if reading {
            input.reserve(READ_SIZE);
            let read = pin!(stream.read_buf(input)).poll(cx);
            return read.map_ok(Moved::Read);
        }
        Poll::Pending
    })
    .await
}

async fn served(blocked: &mut Option<Blocked>) -> Served {
    if let Some(blocked) = blocked
        && let Ok(served) = (&mut blocked.served).await
    {
        return served;
    }
    // Not blocked, or forgotten by a kill, whose bell is about to be heard.
    pending().await
}

async fn sound(alarm: Option<Instant>) {
    match alarm {
        Some(alarm) => sleep_until(alarm).await,
        None => pending().await,
    }
}

const READ_SIZE: usize = 16 * 1024;
const READ_AHEAD: usize = 1024 * 1024;
