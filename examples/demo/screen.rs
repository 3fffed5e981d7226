//! What the audience sees: a live view, lines as it happens, or only the result.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use multidb::redis::Redis;
use multidb::{Event, MultiDbClient};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::args::Args;
use crate::grouped;
use crate::load::{Class, Counts};
use crate::report::Report;
use crate::script::Plan;
use crate::stage::Stage;
use crate::timeline::Moment;

pub(crate) struct Screen {
    out: Out,
    color: bool,
    began: Instant,
    step: AtomicUsize,
    steps: AtomicUsize,
    by_hand: AtomicBool,
    board: Board,
}

/// Where lines go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Out {
    Nowhere,
    Print,
    Live,
}

/// What is shown live: the latest lines and moments.
#[derive(Default)]
pub(crate) struct Board {
    lines: Lock<VecDeque<Line>>,
    moments: Lock<VecDeque<Moment>>,
}

#[expect(clippy::disallowed_types, reason = "held for the time of a copy")]
type Lock<T> = std::sync::Mutex<T>;

/// Something that happened.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) at: Duration,
    pub(crate) paint: Paint,
    pub(crate) kind: &'static str,
    pub(crate) text: String,
}

#[derive(Clone, Copy)]
pub(crate) enum Paint {
    Plain,
    Dim,
    Bold,
    Red,
    Green,
    Yellow,
    Cyan,
}

/// How often the rate is printed.
const BEAT: Duration = Duration::from_millis(500);
/// What a board remembers: more than any terminal shows.
const LINES: usize = 200;
const MOMENTS: usize = 4000;

// === impl Screen ===

impl Screen {
    pub(crate) fn new(args: &Args) -> Self {
        let terminal = stdout().is_terminal();
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let out = match (args.json, args.plain) {
            (true, _) => Out::Nowhere,
            (false, false) if terminal && stdin().is_terminal() && !dumb => Out::Live,
            (false, _) => Out::Print,
        };
        Self {
            out,
            color: !args.json && terminal && std::env::var_os("NO_COLOR").is_none(),
            began: Instant::now(),
            step: AtomicUsize::new(0),
            steps: AtomicUsize::new(0),
            by_hand: AtomicBool::new(false),
            board: Board::default(),
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.out == Out::Live
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn introduce(&self, args: &Args, stage: &Stage, plan: &Plan) {
        self.steps.store(plan.faults.len(), Ordering::Relaxed);
        if self.out != Out::Print {
            return;
        }
        print(&format!(
            "{}\n{stage}\n  Every setting is the default, but for a grace period of {} ms instead of \
             60 s: returning is part\n  of the show. Seed {}; about {} s. Step k/n in the second \
             column is the fault under way.\n\n",
            self.paint(
                Paint::Bold,
                &format!(
                    "{} tasks write through one client while its databases fail.",
                    grouped(args.tasks)
                )
            ),
            plan.grace.as_millis(),
            args.seed,
            args.seconds,
        ));
    }

    /// The fault under way, counted from 1.
    pub(crate) fn step(&self, number: usize) {
        self.step.store(number, Ordering::Relaxed);
    }

    /// The script is over before its end.
    pub(crate) fn hand_over(&self) {
        self.by_hand.store(true, Ordering::Relaxed);
    }

    /// The fault under way and how many there are; `None` once somebody has taken over.
    pub(crate) fn progress(&self) -> Option<(usize, usize)> {
        let steps = (
            self.step.load(Ordering::Relaxed),
            self.steps.load(Ordering::Relaxed),
        );
        (!self.by_hand.load(Ordering::Relaxed)).then_some(steps)
    }

    pub(crate) fn fault(&self, text: &str) {
        self.line(Paint::Red, "FAULT", text);
    }

    pub(crate) fn heal(&self, text: &str) {
        self.line(Paint::Green, "heal", text);
    }

    pub(crate) fn order(&self, text: &str) {
        self.line(Paint::Green, "order", text);
    }

    pub(crate) fn note(&self, text: &str) {
        self.line(Paint::Dim, "note", text);
    }

    fn event(&self, event: &Event) {
        let paint = match event {
            Event::ActiveChanged { .. } => Paint::Cyan,
            _ => Paint::Yellow,
        };
        self.line(paint, "event", &event.to_string());
    }

    /// Printed now and then; live, all of it is drawn.
    pub(crate) fn moment(&self, moment: &Moment) {
        let mut moments = self.board.moments.lock().expect("no panic while held");
        moments.push_back(moment.clone());
        if self.out == Out::Live {
            let excess = moments.len().saturating_sub(MOMENTS);
            moments.drain(..excess);
            return;
        }
        let over: Duration = moments.iter().map(|m| m.lasted).sum();
        if over < BEAT {
            return;
        }
        let mut counts = Counts::default();
        for moment in moments.drain(..) {
            counts.add(&moment.counts);
        }
        drop(moments);
        self.rate(&counts, over, moment.active.as_deref().unwrap_or("none"));
    }

    fn rate(&self, counts: &Counts, over: Duration, active: &str) {
        let rate = counts.acked as f64 / over.as_secs_f64();
        let failed: Vec<_> = Class::ALL
            .iter()
            .zip(counts.failed)
            .filter(|(_, count)| *count > 0)
            .map(|(class, count)| format!("{count} {}", class.name()))
            .collect();
        let errors = match failed.is_empty() {
            true => "no errors".to_owned(),
            false => format!("errors: {}", failed.join(", ")),
        };
        let rate = grouped(rate.round() as u64);
        let text = format!("{rate:>7} ops/s   active {active:<4}   {errors}");
        self.line(Paint::Plain, "rate", &text);
    }

    fn line(&self, paint: Paint, kind: &'static str, text: &str) {
        let at = self.elapsed();
        match self.out {
            Out::Nowhere => {}
            Out::Live => {
                let text = text.to_owned();
                let line = Line {
                    at,
                    paint,
                    kind,
                    text,
                };
                let mut lines = self.board.lines.lock().expect("no panic while held");
                lines.push_back(line);
                let excess = lines.len().saturating_sub(LINES);
                lines.drain(..excess);
            }
            Out::Print => {
                let time = format!("{:7.3}s", at.as_secs_f64());
                let step = match self.step.load(Ordering::Relaxed) {
                    0 => "-".to_owned(),
                    step => format!("{step}/{}", self.steps.load(Ordering::Relaxed)),
                };
                print(&format!(
                    "{}  {step:>3}  {}\n",
                    self.paint(Paint::Dim, &time),
                    self.paint(paint, &format!("{kind:<5}  {text}")),
                ));
            }
        }
    }

    /// The latest lines, the last one last.
    pub(crate) fn lines(&self, most: usize) -> Vec<Line> {
        let lines = self.board.lines.lock().expect("no panic while held");
        let skipped = lines.len().saturating_sub(most);
        lines.iter().skip(skipped).cloned().collect()
    }

    /// The latest moments, the last one last.
    pub(crate) fn moments(&self) -> Vec<Moment> {
        let moments = self.board.moments.lock().expect("no panic while held");
        moments.iter().cloned().collect()
    }

    pub(crate) fn conclude(&self, report: &Report) {
        if self.out == Out::Nowhere {
            print(&format!("{}\n", report.json()));
        } else {
            print(&report.text(&|paint, text| self.paint(paint, text)));
        }
        if let Some(violations) = report.violations() {
            eprintln!("demo: {violations}");
        }
    }

    fn paint(&self, paint: Paint, text: &str) -> String {
        let code = match paint {
            _ if !self.color => return text.to_owned(),
            Paint::Plain => return text.to_owned(),
            Paint::Dim => 2,
            Paint::Bold => 1,
            Paint::Red => 31,
            Paint::Green => 32,
            Paint::Yellow => 33,
            Paint::Cyan => 36,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Shows every event as it comes, until the client is closed.
pub(crate) fn narrate(screen: Arc<Screen>, client: &MultiDbClient<Redis>) -> JoinHandle<()> {
    let mut events = client.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            screen.event(&event);
        }
    })
}

/// Whoever closes standard output early, such as `head`, wants no more of it.
pub(crate) fn print(text: &str) {
    let mut out = stdout().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}
