//! What happens to the databases, and when.

use std::time::Duration;

use multidb::redis::Redis;
use multidb::{MultiDbClient, Status};
use tokio::time::{Instant, sleep, sleep_until, timeout};

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
    pub(crate) other: &'static str,
    /// How often the client had switched by then.
    pub(crate) generation: u64,
    /// Just before it was made.
    pub(crate) at: Instant,
}

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

/// Every fault in its turn, always against the active database. Ends early where the client does
/// not find its way to the other one.
pub(crate) async fn play(
    plan: &Plan,
    stage: &mut Stage,
    client: &MultiDbClient<Redis>,
    screen: &Screen,
) -> Result<Vec<Incident>, Failure> {
    let mut incidents = Vec::new();
    let mut begin = plan.began + WARM_UP;
    for (number, &fault) in plan.faults.iter().enumerate() {
        sleep_until(begin.max(Instant::now() + SETTLE)).await;
        screen.step(number + 1);

        let victim = active(client)?;
        let other = 1 - victim;
        let (sick, well) = (NAMES[victim], NAMES[other]);
        let planned = fault == Fault::PlannedSwitch;
        match planned {
            true => screen.order(&fault.act(sick, well)),
            false => screen.fault(&fault.act(sick, well)),
        }
        incidents.push(Incident {
            fault,
            other: well,
            generation: client.snapshot().generation,
            at: Instant::now(),
        });
        stage.inflict(victim, fault)?;
        if planned && let Err(error) = client.switch_to(well).await {
            screen.fault(&format!("{well} was refused: {error}"));
        }
        if !serves(client, well).await? {
            screen.fault(&format!("{well} does not serve within {PATIENCE:?}"));
            stage.relieve(victim, fault).await?;
            break;
        }

        sleep(plan.hold).await;
        stage.relieve(victim, fault).await?;
        if planned {
            screen.order(&format!("the operator lets it return to {sick}"));
            client.unpin().await?;
        } else {
            screen.heal(&format!(
                "{sick} is well again; its circuit stays open for the grace period"
            ));
        }
        if !serves(client, sick).await? {
            screen.fault(&format!("{sick} has not returned within {PATIENCE:?}"));
        }
        begin += plan.slot;
    }
    sleep_until(begin).await;
    Ok(incidents)
}

fn active(client: &MultiDbClient<Redis>) -> Result<usize, Failure> {
    let active = client.active().ok_or("no database is active")?;
    let index = NAMES.iter().position(|name| active == *name);
    index.ok_or_else(|| format!("{active} is none of ours").into())
}

/// Whether `name` serves in time.
async fn serves(client: &MultiDbClient<Redis>, name: &str) -> Result<bool, Failure> {
    let served = client.wait_for(|snapshot| {
        snapshot.status == Status::Serving
            && snapshot.active.as_ref().is_some_and(|id| *id == *name)
    });
    match timeout(PATIENCE, served).await {
        Ok(snapshot) => snapshot.map(|_| true).map_err(Into::into),
        Err(_) => Ok(false),
    }
}
