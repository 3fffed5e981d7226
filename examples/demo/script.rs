//! What happens to the databases, and when: by the script, until somebody at the keyboard takes over.

use std::time::Duration;

use multidb::redis::Redis;
use multidb::{MultiDbClient, Status};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::Failure;
use crate::args::Args;
use crate::screen::Screen;
use crate::stage::{Fault, NAMES, Stage};

/// How the time is divided.
pub(crate) struct Plan {
    pub(crate) faults: &'static [Fault],
    /// How long a bad database stays out, so that the client returns before the next fault.
    pub(crate) grace: Duration,
    began: Instant,
    slot: Duration,
    /// From the switch until the victim is well again.
    hold: Duration,
}

/// A fault that was made, and what was seen of it from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incident {
    pub(crate) fault: Fault,
    pub(crate) victim: usize,
    /// Where the calls had to go; `None`: they did not go to the victim anyway.
    pub(crate) other: Option<&'static str>,
    /// How often the client had switched by then.
    pub(crate) generation: u64,
    /// Just before it was made.
    pub(crate) at: Instant,
    /// When the victim was well again.
    pub(crate) healed: Option<Instant>,
    pub(crate) by_hand: bool,
}

/// What somebody at the keyboard wants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Command {
    Inflict(usize, Fault),
    /// Everything that is wrong with it is over.
    Relieve(usize),
    /// So much more, or less.
    Reweigh(usize, f64),
    SwitchTo(usize),
    Unpin,
    /// To the verdict.
    End,
}

/// Where commands come from. Nothing comes where there is no keyboard.
pub(crate) type Commands = mpsc::UnboundedReceiver<Command>;

/// What is measured before the first fault.
const WARM_UP: Duration = Duration::from_millis(200);
/// What ending and reading back may take, and its share of the run: there is more to read then.
const CLOSING: Duration = Duration::from_millis(450);
const CLOSING_SHARE: u32 = 40;
/// From the client's return to the next fault, at least: calls left on the other database end.
const SETTLE: Duration = Duration::from_millis(20);
/// How long a switch may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(5);

impl Plan {
    pub(crate) fn new(args: &Args, stage: &Stage, screen: &Screen) -> Self {
        let faults = stage.repertoire();
        // Servers that were slow to start do not take it from the faults.
        let total = Duration::from_secs(args.seconds) - screen.elapsed().min(WARM_UP);
        let steps = u32::try_from(faults.len()).unwrap_or(u32::MAX);
        let slot = (total - WARM_UP - CLOSING - total / CLOSING_SHARE) / steps;
        Self {
            faults,
            grace: slot.mul_f64(0.35).min(Duration::from_secs(2)),
            began: Instant::now(),
            slot,
            hold: slot.mul_f64(0.2).min(Duration::from_secs(1)),
        }
    }
}

/// What was done.
pub(crate) struct Played {
    pub(crate) incidents: Vec<Incident>,
    /// Somebody took over, or ended it, before the script was through.
    pub(crate) cut_short: bool,
}

/// The show under way.
pub(crate) struct Show<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) stage: &'a mut Stage,
    pub(crate) client: &'a MultiDbClient<Redis>,
    pub(crate) screen: &'a Screen,
    pub(crate) commands: Commands,
    pub(crate) incidents: Vec<Incident>,
}

impl Show<'_> {
    /// Everything, to the end. Every database is well again then.
    pub(crate) async fn play(mut self) -> Result<Played, Failure> {
        let command = self.follow_script().await?;
        if let Some(command) = command {
            self.relieve_all().await?;
            if command != Command::End {
                self.screen.note("you take over; q ends it");
                self.screen.hand_over();
                self.obey(command).await?;
            }
        }
        self.relieve_all().await?;
        Ok(Played {
            incidents: self.incidents,
            cut_short: command.is_some(),
        })
    }

    /// Every fault in its turn, always against the active database. Ends early where the client does
    /// not find its way to the other one, and with the first command.
    async fn follow_script(&mut self) -> Result<Option<Command>, Failure> {
        let mut begin = self.plan.began + WARM_UP;
        for (number, &fault) in self.plan.faults.iter().enumerate() {
            let next = begin.max(Instant::now() + SETTLE);
            if let Some(command) = self.pause_until(next).await {
                return Ok(Some(command));
            }
            self.screen.step(number + 1);
            let victim = active(self.client)?;
            let (sick, well) = (NAMES[victim], NAMES[1 - victim]);
            self.inflict(victim, fault, false)?;
            if fault.is_planned()
                && let Err(error) = self.client.switch_to(well).await
            {
                self.screen.fault(&format!("{well} was refused: {error}"));
            }
            if !self.serves(well).await? {
                let problem = format!("{well} does not serve within {PATIENCE:?}");
                self.screen.fault(&problem);
                return Ok(None);
            }
            if let Some(command) = self.pause_until(Instant::now() + self.plan.hold).await {
                return Ok(Some(command));
            }
            self.relieve(victim).await?;
            if !self.serves(sick).await? {
                let problem = format!("{sick} has not returned within {PATIENCE:?}");
                self.screen.fault(&problem);
            }
            begin += self.plan.slot;
        }
        Ok(self.pause_until(begin).await)
    }

    /// Whatever is wanted, until the end of it is.
    async fn obey(&mut self, first: Command) -> Result<(), Failure> {
        let mut next = Some(first);
        while let Some(command) = next {
            let done = match command {
                Command::Inflict(victim, fault) => {
                    self.inflict(victim, fault, true)?;
                    Ok(())
                }
                Command::Relieve(victim) => {
                    self.relieve(victim).await?;
                    Ok(())
                }
                Command::Reweigh(whom, by) => self.reweigh(whom, by).await,
                Command::SwitchTo(whom) => self.client.switch_to(NAMES[whom]).await,
                Command::Unpin => self.client.unpin().await,
                Command::End => return Ok(()),
            };
            if let Err(error) = done {
                self.screen.note(&format!("refused: {error}"));
            }
            next = self.commands.recv().await;
        }
        Ok(())
    }

    async fn reweigh(&self, whom: usize, by: f64) -> Result<(), multidb::Error> {
        let snapshot = self.client.snapshot();
        let weight = snapshot.member(NAMES[whom]).map(|m| m.weight.value());
        // In steps of a half, without what sums of fractions leave behind.
        let weight = (weight.unwrap_or_default() + by).max(0.0);
        self.client.set_weight(NAMES[whom], weight).await
    }

    fn inflict(&mut self, victim: usize, fault: Fault, by_hand: bool) -> Result<(), Failure> {
        let (sick, well) = (NAMES[victim], NAMES[1 - victim]);
        let text = fault.act(sick, well);
        match fault.is_planned() {
            true => self.screen.order(&text),
            false => self.screen.fault(&text),
        }
        let snapshot = self.client.snapshot();
        let serving = snapshot.active.as_ref().is_some_and(|id| *id == *sick);
        self.incidents.push(Incident {
            fault,
            victim,
            other: serving.then_some(well),
            generation: snapshot.generation,
            at: Instant::now(),
            healed: None,
            by_hand,
        });
        self.stage.inflict(victim, fault)
    }

    /// Ends whatever is wrong with it.
    async fn relieve(&mut self, whom: usize) -> Result<(), Failure> {
        let sick = NAMES[whom];
        for index in 0..self.incidents.len() {
            let Incident {
                fault,
                victim,
                healed,
                ..
            } = self.incidents[index];
            if victim != whom || healed.is_some() {
                continue;
            }
            self.stage.relieve(whom, fault).await?;
            self.incidents[index].healed = Some(Instant::now());
            if fault.is_planned() {
                let text = format!("the operator lets it return to {sick}");
                self.screen.order(&text);
                self.client.unpin().await?;
            } else {
                self.screen.heal(&format!(
                    "{sick} is well again; its circuit stays open for the grace period"
                ));
            }
        }
        Ok(())
    }

    async fn relieve_all(&mut self) -> Result<(), Failure> {
        for whom in 0..NAMES.len() {
            self.relieve(whom).await?;
        }
        Ok(())
    }

    /// A command that came before that time.
    async fn pause_until(&mut self, time: Instant) -> Option<Command> {
        tokio::select! {
            Some(command) = self.commands.recv() => Some(command),
            () = sleep_until(time) => None,
        }
    }

    /// Whether `name` serves in time.
    async fn serves(&self, name: &str) -> Result<bool, Failure> {
        let served = self.client.wait_for(|snapshot| {
            snapshot.status == Status::Serving
                && snapshot.active.as_ref().is_some_and(|id| *id == *name)
        });
        match timeout(PATIENCE, served).await {
            Ok(snapshot) => snapshot.map(|_| true).map_err(Into::into),
            Err(_) => Ok(false),
        }
    }
}

fn active(client: &MultiDbClient<Redis>) -> Result<usize, Failure> {
    let active = client.active().ok_or("no database is active")?;
    let index = NAMES.iter().position(|name| active == *name);
    index.ok_or_else(|| format!("{active} is none of ours").into())
}
