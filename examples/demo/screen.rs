//! What the audience sees.

use std::io::{IsTerminal, Write, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use multidb::redis::Redis;
use multidb::{Event, MultiDbClient};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::args::Args;
use crate::grouped;
use crate::load::{Class, Counts, Meter};
use crate::report::Report;
use crate::script::Plan;
use crate::stage::Stage;

/// Lines as it happens, or with `--json` only the result.
pub(crate) struct Screen {
    json: bool,
    color: bool,
    began: Instant,
    step: AtomicUsize,
    steps: AtomicUsize,
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

/// How often the rate is shown.
const BEAT: Duration = Duration::from_millis(500);

// === impl Screen ===

impl Screen {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            color: !json && stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            began: Instant::now(),
            step: AtomicUsize::new(0),
            steps: AtomicUsize::new(0),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn introduce(&self, args: &Args, stage: &Stage, plan: &Plan) {
        self.steps.store(plan.faults.len(), Ordering::Relaxed);
        if self.json {
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

    fn line(&self, paint: Paint, kind: &str, text: &str) {
        if self.json {
            return;
        }
        let time = format!("{:7.3}s", self.elapsed().as_secs_f64());
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

    pub(crate) fn conclude(&self, report: &Report) {
        if self.json {
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

/// Shows every event as it comes and the rate twice a second, until the client is closed.
pub(crate) fn narrate(
    screen: Arc<Screen>,
    client: MultiDbClient<Redis>,
    meter: Arc<Meter>,
) -> JoinHandle<()> {
    let mut events = client.events();
    tokio::spawn(async move {
        let mut beat = interval_at(Instant::now() + BEAT, BEAT);
        // A late beat is shown as what it is: a longer time.
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut counts, mut at) = (meter.counts(), Instant::now());
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => screen.event(&event),
                    None => return,
                },
                _ = beat.tick() => {
                    let (now, so_far) = (Instant::now(), meter.counts());
                    let active = client.active();
                    let active = active.as_ref().map_or("none", |id| id.as_str());
                    screen.rate(&so_far.since(&counts), now - at, active);
                    (counts, at) = (so_far, now);
                }
            }
        }
    })
}

/// Whoever closes standard output early, such as `head`, wants no more of it.
pub(crate) fn print(text: &str) {
    let mut out = stdout().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}
