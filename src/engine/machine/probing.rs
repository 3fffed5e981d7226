//! Asking members, and what their answers and losses mean for their circuits.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::members::{Member, Suspicion};
use super::trouble::FoundBy;
use super::{Effect, Evidence, Machine, MemberKey, Probe, ProbeId, Slot, guarded, jittered};
use crate::engine::backend::{Depth, Fault, FaultKind, Verdict};
use crate::engine::circuit::CircuitState;
use crate::engine::detector::{Observed, SlidingWindow};
use crate::engine::event::{Event, Reason};

/// A probe under way.
pub(super) struct Flight {
    pub(super) member: MemberKey,
    pub(super) slot: Slot,
    pub(super) kind: Kind,
    pub(super) started: Instant,
    /// The episode it speaks of. Its verdict says nothing about another one.
    pub(super) episode: u64,
    pub(super) depth: Depth,
    /// Asks all checks.
    pub(super) thorough: bool,
    /// What a bad verdict will be called.
    pub(super) reason: Reason,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Attempt,
    Round,
    /// A ping over the callers' own connection: speaks of the connection, not of the database.
    Idle,
}

/// Losses closer together than this slow the reconnecting down, from 10 ms to 1 s.
const LOSS_WINDOW: Duration = Duration::from_secs(1);
const RECONNECT_PAUSE: Duration = Duration::from_millis(10);
/// So many replaced connections within this time are the database's fault after all.
const REPLACED: usize = 3;
const REPLACED_WINDOW: Duration = Duration::from_secs(10);

impl Machine {
    // --- asking ---

    /// One attempt now.
    pub(super) fn attempt(
        &mut self,
        key: MemberKey,
        slot: Slot,
        reason: Reason,
    ) -> Option<ProbeId> {
        self.ask(key, slot, Kind::Attempt, reason, false)
    }

    /// An attempt must be under way, or one that began at `since` or later have ended well.
    pub(super) fn prove(&mut self, key: MemberKey, since: Instant) {
        if !self.is_proving(key) && !self.member(key).is_none_or(|m| m.proven_since(since)) {
            // If it fails, that is why; what it was wanted for has nothing to do with it.
            self.attempt(key, Slot::Traffic, Reason::HealthCheck);
        }
    }

    /// One that lets go of every connection is asked at the pace of its reconnects, and one that is
    /// silent not again before it has spoken: over the same connection that would tell no more, and
    /// what is in flight would pile up with every sign of trouble.
    pub(super) fn is_proving(&self, key: MemberKey) -> bool {
        let reconnects = |m: &Member| m.reconnect.at.is_some();
        self.member(key).is_some_and(reconnects)
            || self.in_flight(key, |f| f.slot == Slot::Traffic && f.kind == Kind::Attempt)
    }

    /// Over which connection a member is asked how it is.
    pub(super) fn health_slot(&self, key: MemberKey) -> Slot {
        if self.active == Some(key) {
            Slot::Probe
        } else {
            Slot::Traffic
        }
    }

    pub(super) fn ask(
        &mut self,
        key: MemberKey,
        slot: Slot,
        kind: Kind,
        reason: Reason,
        fresh: bool,
    ) -> Option<ProbeId> {
        let member = self.member(key)?;
        let circuit = &self.domain_of(member).circuit;
        let depth = if circuit.opened_by_state() {
            Depth::Serving
        } else {
            Depth::Alive
        };
        let thorough = self.has_time(key, kind, reason);
        let flight = Flight {
            member: key,
            slot,
            kind,
            started: self.now,
            episode: circuit.episode(),
            depth,
            thorough,
            reason,
        };
        let anew = kind == Kind::Round && self.connects_anew(key);
        let id = ProbeId(self.next_probe);
        self.next_probe += 1;
        self.flights.insert(id, flight);
        self.out.probes.push(Probe {
            id,
            member: key,
            slot,
            round: kind == Kind::Round,
            depth,
            thorough,
            anew,
            fresh,
            timeout: match kind {
                Kind::Idle => self.config.calls.response_timeout,
                Kind::Attempt | Kind::Round => self.config.health.timeout,
            },
        });
        Some(id)
    }

    /// Whether the slower checks are asked as well: not where callers wait for the answer, unless
    /// nothing is known yet.
    fn has_time(&self, key: MemberKey, kind: Kind, reason: Reason) -> bool {
        let unknown = self.member(key).is_some_and(|m| m.health.is_none());
        let calm = self.trouble.is_none() && reason == Reason::HealthCheck;
        match kind {
            Kind::Round => true,
            Kind::Attempt => calm || unknown || self.generation == 0,
            Kind::Idle => false,
        }
    }

    /// Every so many rounds: a connection that stands tells nothing of whether another one could.
    fn connects_anew(&mut self, key: MemberKey) -> bool {
        let every = self.config.health.fresh_every;
        let Some(member) = self.member_mut(key) else {
            return false;
        };
        member.rounds += 1;
        // That none could be made stands until one can.
        every > 0 && (member.reservation().is_some() || member.rounds % u64::from(every) == 0)
    }

    /// Probes that are due: recovery attempts, reconnects, rounds.
    pub(super) fn schedule_probes(&mut self) {
        // Nobody joins or leaves meanwhile.
        for index in 0..self.members.len() {
            self.schedule_member(self.members[index].key);
        }
    }

    fn schedule_member(&mut self, key: MemberKey) {
        let now = self.now;
        let Some(member) = self.member(key) else {
            return;
        };
        let circuit = &self.domain_of(member).circuit;
        let (state, episode) = (circuit.state(), circuit.episode());
        let interval = self.config.health.interval;
        let round_due = member.next_round <= now;
        let reconnect_due = member.reconnect.at.is_some_and(|at| at <= now);
        // The callers' connection must come back, whatever the circuit says, if they are sent there.
        let bereft = self.may_serve(key)
            && self.active == Some(key)
            && !member.traffic
            && member.reconnect.at.is_none();

        if state == CircuitState::HalfOpen && !self.in_flight(key, |f| f.episode == episode) {
            self.attempt(key, self.health_slot(key), Reason::HealthCheck);
        }
        if let Some(member) = self.member_mut(key)
            && member.next_suspicion <= now
            && let Some(Suspicion { reason, fresh }) = member.postponed.take()
            && self.active == Some(key)
        {
            self.wake_probe(key, reason, fresh);
        }
        if reconnect_due || bereft {
            if let Some(member) = self.member_mut(key) {
                member.reconnect.at = None;
            }
            if !self.in_flight(key, |f| f.slot == Slot::Traffic && f.kind == Kind::Attempt) {
                self.attempt(key, Slot::Traffic, Reason::ConnectionLost);
            }
        }
        if round_due {
            let pause = jittered(&mut self.rng, interval);
            if let Some(member) = self.member_mut(key) {
                member.next_round = now + pause;
            }
            if !self.in_flight(key, |f| f.kind == Kind::Round) {
                let slot = self.health_slot(key);
                if state == CircuitState::Closed {
                    self.ask(key, slot, Kind::Round, Reason::HealthCheck, false);
                } else if !self.in_flight(key, |f| f.slot == slot) {
                    self.attempt(key, slot, Reason::HealthCheck);
                }
            }
            if self.serving() == Some(key) && self.member(key).is_some_and(|m| m.traffic) {
                self.ask_idle(key);
            }
        }
    }

    /// A ping over the callers' connection, unless one is under way.
    pub(super) fn ask_idle(&mut self, key: MemberKey) {
        if !self.in_flight(key, |f| f.kind == Kind::Idle) {
            self.ask(key, Slot::Traffic, Kind::Idle, Reason::HealthCheck, false);
        }
    }

    pub(super) fn in_flight(&self, key: MemberKey, which: impl Fn(&Flight) -> bool) -> bool {
        self.flights.values().any(|f| f.member == key && which(f))
    }

    pub(super) fn probing_deadline(&self) -> Option<Instant> {
        self.members
            .iter()
            .flat_map(|m| {
                let suspicion = m.postponed.map(|_| m.next_suspicion);
                [Some(m.next_round), m.reconnect.at, suspicion]
            })
            .flatten()
            .min()
    }

    // --- answers ---

    pub(super) fn probed(
        &mut self,
        id: ProbeId,
        verdict: Verdict,
        rtt: Option<Duration>,
        connected: bool,
    ) {
        let Some(flight) = self.flights.remove(&id) else {
            return;
        };
        let key = flight.member;
        let Some(member) = self.member_mut(key) else {
            return;
        };
        if let Some(rtt) = rtt {
            member.observe_rtt(rtt);
        }
        let (domain, unknown) = (member.domain.clone(), member.health.is_none());
        if flight.slot == Slot::Traffic {
            self.note_connection(key, connected);
        }
        if flight.kind == Kind::Idle {
            let current = self.domains[&domain].circuit.episode() == flight.episode;
            if let Verdict::Unhealthy(fault) = verdict
                && fault.kind != FaultKind::Local
                && current
            {
                self.idle_failed(key, flight.started, &fault);
            }
            return;
        }
        if !self.verify(key, &verdict) {
            return;
        }
        if self.domains[&domain].circuit.episode() != flight.episode {
            if unknown {
                // Somebody waits for the first word about it; the next one will be up to date.
                self.attempt(key, Slot::Traffic, flight.reason);
            }
            return;
        }
        let verdict = self.with_reservation(key, &flight, verdict);
        let local = matches!(&verdict, Verdict::Unhealthy(f) if f.kind == FaultKind::Local);
        if !local || unknown {
            self.note_health(key, &verdict);
        }
        // One that we cannot ask is asked again as one that lets go of its connections is.
        let answered = local || !matches!(verdict, Verdict::Unhealthy(_));
        match verdict {
            Verdict::Healthy | Verdict::Degraded(_) => self.healthy(id, &flight, &domain),
            Verdict::Standby | Verdict::Suspended => {
                self.lose_order(key);
                self.recovering(&flight, &domain);
            }
            Verdict::Unhealthy(fault) => self.unhealthy(id, &flight, &domain, &fault),
        }
        if flight.slot == Slot::Traffic && (!connected || local) {
            self.reconnect_later(key, answered);
        }
    }

    /// A hasty look does not ask about reservations: the one that stands goes on standing.
    fn with_reservation(&self, key: MemberKey, flight: &Flight, verdict: Verdict) -> Verdict {
        let known = self.member(key).and_then(Member::reservation);
        match (known, &verdict) {
            (Some(known), Verdict::Healthy) if !flight.thorough => Verdict::Degraded(known.clone()),
            _ => verdict,
        }
    }

    /// Whether it is a member now: one that was to be verified has become one, or is gone.
    fn verify(&mut self, key: MemberKey, verdict: &Verdict) -> bool {
        let Some(ticket) = self.member_mut(key).and_then(|m| m.joining.take()) else {
            return true;
        };
        let healthy = verdict.serves();
        if healthy {
            self.joined(key, ticket);
        } else {
            self.refuse_joining(key, ticket, verdict);
        }
        healthy
    }

    /// What the supervisor found in the slot after a probe: it alone knows, since a connection may
    /// end while the answer it gave is on its way here.
    fn note_connection(&mut self, key: MemberKey, connected: bool) {
        let Some(member) = self.member_mut(key) else {
            return;
        };
        let before = std::mem::replace(&mut member.traffic, connected);
        if connected {
            member.reconnect.at = None;
        } else {
            member.proven = None;
        }
        if before != connected {
            self.out.publish = true;
        }
        if connected && !before {
            self.reconnected(key);
        }
    }

    /// A server that takes no connection now is not asked again at once, and only if it must be: a
    /// standby has its rounds, unless it has just `answered`.
    fn reconnect_later(&mut self, key: MemberKey, answered: bool) {
        let now = self.now;
        if !answered && self.serving() != Some(key) {
            return;
        }
        if let Some(member) = self.member_mut(key) {
            let reconnect = &mut member.reconnect;
            reconnect.pause = (reconnect.pause * 2).clamp(RECONNECT_PAUSE, LOSS_WINDOW);
            reconnect.at = Some(now + reconnect.pause);
        }
    }

    pub(super) fn note_health(&mut self, key: MemberKey, verdict: &Verdict) {
        let (interval, cap) = (self.config.health.interval, self.config.health.max_backoff);
        let pause = jittered(&mut self.rng, interval);
        let now = self.now;
        let Some(member) = self.member_mut(key) else {
            return;
        };
        match verdict {
            Verdict::Unhealthy(_) => {
                let doubled = pause.saturating_mul(1 << member.failures.min(20));
                member.failures += 1;
                member.next_round = now + doubled.min(cap.max(interval));
            }
            Verdict::Healthy | Verdict::Degraded(_) | Verdict::Standby | Verdict::Suspended => {
                if std::mem::take(&mut member.failures) > 0 {
                    member.next_round = now + pause;
                }
            }
        }
        let changed = match (&member.health, verdict) {
            (Some(Verdict::Unhealthy(a)), Verdict::Unhealthy(b))
            | (Some(Verdict::Degraded(a)), Verdict::Degraded(b)) => a.kind != b.kind,
            (before, verdict) => before.as_ref() != Some(verdict),
        };
        member.health = Some(verdict.clone());
        member.health_at = now;
        let rests = matches!(verdict, Verdict::Standby | Verdict::Suspended);
        if rests {
            member.proven = None;
        }
        if self.active == Some(key) {
            self.turned = match rests {
                true => self.turned.or(Some(now)),
                false => None,
            };
        }
        let Some(member) = self.member(key) else {
            return;
        };
        if changed {
            let database = member.id.clone();
            self.emit(Event::HealthChanged {
                database,
                verdict: verdict.clone(),
            });
        }
    }

    fn healthy(&mut self, id: ProbeId, flight: &Flight, domain: &Arc<str>) {
        let key = flight.member;
        if flight.slot == Slot::Traffic
            && let Some(member) = self.member_mut(key)
            && member.traffic
        {
            member.proven = member.proven.max(Some(flight.started));
        }
        match self.domains[domain].circuit.state() {
            CircuitState::Closed => self.cleared(id, flight),
            CircuitState::HalfOpen => self.recovering(flight, domain),
            CircuitState::Open
                if flight.reason == Reason::LastResort
                    && self.looked_deep_enough(flight, domain)
                    && self.is_last_resort(key) =>
            {
                let cause = "nothing else is left, and it answers";
                self.half_open(domain, Reason::LastResort, cause);
                self.close(domain, 1, Reason::LastResort, cause);
                self.resort(cause);
            }
            CircuitState::Open => {}
        }
    }

    /// Somebody in the domain is alive, which closes its circuit. Whether the one that answered may
    /// serve is another matter: one that stands by is as alive as one that serves.
    fn recovering(&mut self, flight: &Flight, domain: &Arc<str>) {
        if self.looked_deep_enough(flight, domain) {
            let enough = self.domains[domain].circuit.recovery_probes();
            let cause = "recovery attempts succeeded";
            self.close(domain, enough, Reason::Recovery, cause);
        }
    }

    /// In the state that opened the circuit a ping may lie.
    fn looked_deep_enough(&self, flight: &Flight, domain: &Arc<str>) -> bool {
        !self.domains[domain].circuit.opened_by_state() || flight.depth == Depth::Serving
    }

    fn unhealthy(&mut self, id: ProbeId, flight: &Flight, domain: &Arc<str>, fault: &Fault) {
        let key = flight.member;
        if let Some(member) = self.member_mut(key) {
            member.proven = None;
        }
        if fault.kind == FaultKind::Local && self.domains[domain].circuit.is_closed() {
            // Nobody was asked: what stands goes on, and a suspect is asked again with the next sign. One that
            // we cannot reach any more is left for one that we can.
            self.drop_suspect(id);
            let bereft = self.member(key).is_some_and(|m| !m.traffic);
            if bereft && self.active == Some(key) {
                self.verdict(FoundBy::Connections, &fault.what);
            }
            return;
        }
        let by_state = fault.kind == FaultKind::State;
        let active_closed = self.active_domain().as_ref() == Some(domain)
            && self.domains[domain].circuit.is_closed();
        if by_state && active_closed {
            if self.active == Some(key) {
                self.verdict(FoundBy::Probe, &fault.what);
            }
            return;
        }
        let reason = if by_state {
            Reason::ServerState
        } else {
            flight.reason
        };
        self.trip(domain, !by_state, reason, &fault.what);
    }

    // --- circuits ---

    /// Opens the circuit of a domain. `hard`: its connections are worth nothing any more.
    pub(super) fn trip(&mut self, domain: &Arc<str>, hard: bool, reason: Reason, cause: &str) {
        let now = self.now;
        let jitter = 0.9 + 0.2 * self.rng.f64();
        let Some(entry) = self.domains.get_mut(domain) else {
            return;
        };
        let from = entry.circuit.state();
        if !entry
            .circuit
            .open(now, reason == Reason::ServerState, jitter)
        {
            return;
        }
        self.circuit_changed(domain, from, reason, cause);
        self.opened(domain, hard, reason, cause);
    }

    /// What follows from an open circuit for the members behind it.
    pub(super) fn opened(&mut self, domain: &Arc<str>, hard: bool, reason: Reason, cause: &str) {
        let keys: Vec<_> = self
            .members
            .iter()
            .filter(|m| m.domain == *domain)
            .map(|m| m.key)
            .collect();
        for key in keys {
            if hard {
                self.abort(key, Slot::Traffic);
                self.abort(key, Slot::Probe);
            }
            if let Some(member) = self.member_mut(key) {
                member.proven = None;
                member.lost = false;
                member.reconnect.at = None;
                member.postponed = None;
            }
            self.lose_order(key);
            if self.wish.as_ref().is_some_and(|wish| wish.target == key) {
                self.give_up_wish();
            }
        }
        if self.active_domain().as_ref() == Some(domain) {
            self.down(reason, cause);
        }
    }

    pub(super) fn abort(&mut self, key: MemberKey, slot: Slot) {
        if slot == Slot::Traffic
            && let Some(member) = self.member_mut(key)
        {
            member.traffic = false;
            member.proven = None;
        }
        self.out.publish = true;
        self.out.aborts.push(Effect::Abort { member: key, slot });
    }

    pub(super) fn half_open(&mut self, domain: &Arc<str>, reason: Reason, cause: &str) {
        if let Some(entry) = self.domains.get_mut(domain)
            && entry.circuit.half_open()
        {
            self.circuit_changed(domain, CircuitState::Open, reason, cause);
        }
    }

    fn close(&mut self, domain: &Arc<str>, enough: u32, reason: Reason, cause: &str) {
        let now = self.now;
        if let Some(entry) = self.domains.get_mut(domain)
            && entry.circuit.recovered(now, enough)
        {
            self.circuit_changed(domain, CircuitState::HalfOpen, reason, cause);
        }
    }

    pub(super) fn circuit_changed(
        &mut self,
        domain: &Arc<str>,
        from: CircuitState,
        reason: Reason,
        cause: &str,
    ) {
        let now = self.now;
        let Some(entry) = self.domains.get_mut(domain) else {
            return;
        };
        entry.refusals.clear();
        let sane = guarded(|| entry.detector.reset()).is_some();
        let (to, until) = (entry.circuit.state(), entry.circuit.until());
        let Some(first) = self.members.iter().find(|m| m.domain == *domain) else {
            return;
        };
        let event = Event::CircuitChanged {
            database: first.id.clone(),
            failure_domain: domain.to_string(),
            from,
            to,
            reason,
            cause: cause.to_owned(),
            dwell: until.map(|until| until.saturating_duration_since(now)),
        };
        self.emit(event);
        if !sane {
            self.replace_detector(domain);
        }
    }

    /// A detector of the user's panicked: the default takes its place.
    pub(super) fn replace_detector(&mut self, domain: &Arc<str>) {
        if let Some(entry) = self.domains.get_mut(domain) {
            entry.detector = Box::new(SlidingWindow::new(self.config.detector.clone()));
        }
        self.complain("failure detector");
    }

    // --- losses ---

    pub(super) fn lost(&mut self, key: MemberKey, slot: Slot) {
        let now = self.now;
        let Some(member) = self.member_mut(key) else {
            return;
        };
        let domain = member.domain.clone();
        if slot == Slot::Probe {
            // Its next use makes it anew; nothing is known about the database but that it let go.
            if self.active == Some(key) {
                self.wake_probe(key, Reason::ConnectionLost, false);
            }
            return;
        }
        member.traffic = false;
        member.lost = true;
        member.proven = None;
        let again = member
            .reconnect
            .last_loss
            .is_some_and(|at| now.duration_since(at) < LOSS_WINDOW + member.reconnect.pause);
        member.reconnect.pause = if again {
            (member.reconnect.pause * 2).clamp(RECONNECT_PAUSE, LOSS_WINDOW)
        } else {
            Duration::ZERO
        };
        member.reconnect.last_loss = Some(now);
        member.reconnect.at = Some(now + member.reconnect.pause);
        self.out.publish = true;
        if self.serving() == Some(key) {
            self.suspect(Reason::ConnectionLost, "the connection was lost");
        }
        if !again {
            // A connection that had lasted is no failure of the database: its reconnect tells.
            return;
        }
        // One lost connection is one failure, however many calls were on it.
        let episode = self.domains[&domain].circuit.episode();
        self.evidence(&Evidence {
            domain,
            episode,
            seen: Observed::new(0, 1),
            ..Evidence::default()
        });
    }

    fn reconnected(&mut self, key: MemberKey) {
        let serving = self.serving() == Some(key);
        let Some(member) = self.member_mut(key) else {
            return;
        };
        if std::mem::take(&mut member.lost) && serving {
            let database = member.id.clone();
            self.emit(Event::ConnectionReplaced {
                database,
                cause: "it had been lost".to_owned(),
            });
        }
    }

    fn idle_failed(&mut self, key: MemberKey, since: Instant, fault: &Fault) {
        let Some(member) = self.member(key).filter(|m| m.traffic) else {
            return;
        };
        if self.serving() != Some(key) {
            return;
        }
        if member.well_since(since) {
            self.replace(key, &format!("a ping on it failed: {fault}"));
        } else {
            // A hung database is not helped by a new connection.
            self.stalled(key, self.stall_age(), false);
        }
    }

    /// The database is well, its traffic connection is not.
    pub(super) fn replace(&mut self, key: MemberKey, cause: &str) {
        let now = self.now;
        self.abort(key, Slot::Traffic);
        let Some(member) = self.member_mut(key) else {
            return;
        };
        member.reconnect.at = Some(now);
        // Announced here; the new connection need not be announced again.
        member.lost = false;
        member
            .replaced
            .retain(|&at| now.duration_since(at) < REPLACED_WINDOW);
        member.replaced.push(now);
        let again = member.replaced.len() >= REPLACED;
        let database = member.id.clone();
        self.emit(Event::ConnectionReplaced {
            database,
            cause: cause.to_owned(),
        });
        self.flights
            .retain(|_, f| f.member != key || f.kind != Kind::Idle);
        if again {
            // It answers probes, and no call gets through whatever the connection.
            self.verdict(FoundBy::Connections, "its connections keep falling silent");
        }
    }

    /// A ping over the callers' connection has been waiting for so long.
    pub(super) fn is_idle_silent(&self, key: MemberKey, time: Duration) -> bool {
        let now = self.now;
        self.in_flight(key, |f| {
            f.kind == Kind::Idle && now.duration_since(f.started) >= time
        })
    }
}
