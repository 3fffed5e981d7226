//! Choosing the database to serve from.

use super::database::{DatabaseId, Role, Weight};

/// Chooses the database to serve from.
///
/// A pure function of the candidates. The engine calls it with members that may be chosen (enabled,
/// circuit closed, weight above 0), in the order in which they were added; the active one is among
/// them if it may stay. A panic, or an answer that is no candidate, falls back to [`HighestWeight`].
pub trait FailoverStrategy: Send + Sync + 'static {
    /// The index of the candidate to serve from, or `None` if none will do.
    fn choose(&self, candidates: &[Candidate<'_>]) -> Option<usize>;
}

/// A database that may be chosen.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Candidate<'a> {
    /// Its name.
    pub id: &'a DatabaseId,
    /// How much it is wanted.
    pub weight: Weight,
    /// What it may be used for.
    pub role: Role,
    /// Whether it is the active one.
    pub active: bool,
}

/// The default: the highest weight; among equals the active one, else the one added first.
#[derive(Clone, Copy, Debug, Default)]
pub struct HighestWeight;

impl FailoverStrategy for HighestWeight {
    fn choose(&self, candidates: &[Candidate<'_>]) -> Option<usize> {
        let mut best: Option<usize> = None;
        for (index, candidate) in candidates.iter().enumerate() {
            let better = match best.map(|b| &candidates[b]) {
                None => true,
                Some(best) => {
                    candidate.weight > best.weight
                        || (candidate.weight == best.weight && candidate.active)
                }
            };
            if better {
                best = Some(index);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(list: &[(f64, bool)]) -> Option<usize> {
        let id = DatabaseId::new("x").unwrap();
        let candidates: Vec<_> = list
            .iter()
            .map(|&(weight, active)| Candidate {
                id: &id,
                weight: Weight::new(weight).unwrap(),
                role: Role::Primary,
                active,
            })
            .collect();
        HighestWeight.choose(&candidates)
    }

    #[test]
    fn the_highest_weight_wins_and_ties_are_stable() {
        assert_eq!(choose(&[]), None);
        assert_eq!(choose(&[(1.0, true), (2.0, false)]), Some(1));
        assert_eq!(choose(&[(1.0, false), (1.0, false)]), Some(0));
        assert_eq!(choose(&[(1.0, false), (1.0, true)]), Some(1));
        assert_eq!(choose(&[(1.0, true), (1.0, false)]), Some(0));
    }
}
