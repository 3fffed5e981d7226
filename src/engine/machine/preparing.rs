//! Before a planned switch, whoever follows the active member goes ahead.
//!
//! A subscriber that learnt of a switch like everybody else would miss what is published on the new
//! database until it has subscribed there. Where nothing is burning there is time to let it
//! subscribe first.

use std::time::Duration;

use tokio::time::Instant;

use super::{Effect, Machine, MemberKey};

/// Followers have been sent ahead.
pub(super) struct Preparation {
    target: MemberKey,
    /// They are waited for until then.
    until: Instant,
}

/// A follower that takes longer has a gap; the switch is made all the same.
const PATIENCE: Duration = Duration::from_secs(1);

impl Machine {
    /// Whether the planned switch to `target` may be made now. Asked until it may.
    pub(super) fn is_prepared(&mut self, target: MemberKey) -> bool {
        if self.serving().is_none() {
            // Nobody is served meanwhile: there is nothing to wait on.
            return true;
        }
        match &self.preparation {
            Some(preparation) if preparation.target == target => preparation.until <= self.now,
            _ => {
                // Whoever changes the target does not make the switch wait longer.
                let begun = self.preparation.take().map(|before| before.until);
                self.preparation = Some(Preparation {
                    target,
                    until: begun.unwrap_or(self.now + PATIENCE),
                });
                self.out.publish = true;
                self.out.others.push(Effect::Prepare { member: target });
                begun.is_some_and(|until| until <= self.now)
            }
        }
    }

    /// Every follower is there.
    pub(super) fn prepared(&mut self, member: MemberKey) {
        if let Some(preparation) = &mut self.preparation
            && preparation.target == member
        {
            preparation.until = self.now;
        }
    }

    /// The switch has been made, or is not wanted any more.
    pub(super) fn forget_preparation(&mut self) {
        if self.preparation.take().is_some() {
            self.out.publish = true;
        }
    }

    pub(super) fn preparation_ends(&self) -> Option<Instant> {
        Some(self.preparation.as_ref()?.until)
    }

    /// The member that followers of the active one are sent ahead to.
    pub fn upcoming(&self) -> Option<MemberKey> {
        Some(self.preparation.as_ref()?.target)
    }
}
