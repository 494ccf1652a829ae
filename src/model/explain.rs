//! Why one instance of a logical id is chosen and the others are not.
//!
//! Resolve gives one answer and keeps its reasons to itself. An operator who wonders why traffic goes to *that* instance
//! needs all of them: who was a candidate, in which order, and on which rule each one lost; and who was never
//! considered, and why. The order is that of [`Rank`], the conditions are those of Resolve by the policy "best"; tests
//! hold both against each other, so that an explanation never tells another story than the answer.

use std::fmt;

use chrono::{DateTime, Utc};

use super::{
    ids::InstanceId,
    ranking::Rank,
    status::{DeathReason, InstanceStatus},
};

/// What is known of one instance of the logical id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The instance.
    pub instance_id: InstanceId,
    /// Its status, whether as written or as seen in the current epoch.
    pub status: InstanceStatus,
    /// Why it died, if it did and the reason is on record.
    pub death: Option<DeathReason>,
    /// Whether it registered in the current epoch.
    pub epoch_is_current: bool,
    /// Two beats overdue.
    pub suspect: bool,
    /// When its lease was registered.
    pub started_at: DateTime<Utc>,
    /// The request excludes it.
    pub excluded: bool,
    /// It carries the labels that the request asks for.
    pub labels_match: bool,
}

/// The rule by which one instance stands before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Not suspect before suspect.
    Suspicion,
    /// Then the longest serving.
    Seniority,
    /// Then the lowest instance id.
    InstanceId,
}

/// Why an instance was never considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The request excludes it.
    Excluded,
    /// It lacks a label that the request asks for.
    Labels,
    /// It takes nothing new.
    Draining,
    /// It is not ready for work yet.
    Starting,
    /// A rotation has ended its epoch.
    OldEpoch,
    /// It is dead; see [`Explained::death`].
    Dead,
}

/// How an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The one that Resolve gives.
    Chosen {
        /// The rule by which it stands before the next; `None` if it is the only candidate.
        rule: Option<Rule>,
    },
    /// A candidate with another one ranked before it.
    Outranked {
        /// The one that is chosen.
        by: InstanceId,
        /// On which rule.
        rule: Rule,
    },
    /// No candidate.
    NotConsidered(Cause),
}

/// One instance and how it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Which.
    pub instance_id: InstanceId,
    /// Its place among the candidates, from 1; `None` if it is none.
    pub rank: Option<usize>,
    /// How it stands, and why.
    pub standing: Standing,
    /// Whether it is suspect.
    pub suspect: bool,
    /// Why it died, if it is dead and the reason is on record.
    pub death: Option<DeathReason>,
}

/// Explains how each instance of a logical id stands: candidates first, by rank, so that the first is the one that
/// Resolve gives by the policy "best"; then the others, by cause, the latest started first.
#[must_use]
pub fn explain(candidates: &[Candidate]) -> Vec<Explained> {
    let (mut ranked, mut others) = (Vec::new(), Vec::new());
    for candidate in candidates {
        match candidate.cause() {
            None => ranked.push((candidate.rank(), candidate)),
            Some(cause) => others.push((cause, candidate)),
        }
    }
    ranked.sort_unstable_by_key(|(rank, _)| *rank);
    others.sort_unstable_by(|(cause, a), (other, b)| {
        cause.cmp(other).then(b.started_at.cmp(&a.started_at)).then(a.instance_id.cmp(&b.instance_id))
    });
    let second = ranked.get(1).map(|(rank, _)| *rank);
    let chosen = ranked.first().map(|(rank, _)| *rank);
    let candidates = ranked.iter().enumerate().filter_map(|(place, (rank, candidate))| {
        let chosen = chosen?;
        let standing = match place {
            0 => Standing::Chosen { rule: second.map(|second| rule(chosen, second)) },
            _ => Standing::Outranked { by: chosen.instance_id, rule: rule(chosen, *rank) },
        };
        Some(candidate.explained(Some(place + 1), standing))
    });
    let others = others.iter().map(|(cause, candidate)| candidate.explained(None, Standing::NotConsidered(*cause)));
    candidates.chain(others).collect()
}

/// The rule by which the first stands before the second.
fn rule(first: Rank, second: Rank) -> Rule {
    if first.suspect != second.suspect {
        Rule::Suspicion
    } else if first.started_at != second.started_at {
        Rule::Seniority
    } else {
        Rule::InstanceId
    }
}

impl Candidate {
    fn rank(&self) -> Rank {
        Rank { suspect: self.suspect, started_at: self.started_at, instance_id: self.instance_id }
    }

    /// Why it is no candidate; `None` if it is one.
    fn cause(&self) -> Option<Cause> {
        match self.status {
            // However it is told: as written, or as seen in the current epoch.
            InstanceStatus::Dead if self.death == Some(DeathReason::OldEpoch) => Some(Cause::OldEpoch),
            InstanceStatus::Dead => Some(Cause::Dead),
            _ if !self.epoch_is_current => Some(Cause::OldEpoch),
            InstanceStatus::Starting => Some(Cause::Starting),
            InstanceStatus::Draining => Some(Cause::Draining),
            InstanceStatus::Alive if self.excluded => Some(Cause::Excluded),
            InstanceStatus::Alive if !self.labels_match => Some(Cause::Labels),
            InstanceStatus::Alive => None,
        }
    }

    fn explained(&self, rank: Option<usize>, standing: Standing) -> Explained {
        Explained { instance_id: self.instance_id, rank, standing, suspect: self.suspect, death: self.death }
    }
}

impl Rule {
    /// The word for it, for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Suspicion => "suspicion",
            Self::Seniority => "seniority",
            Self::InstanceId => "instance_id",
        }
    }
}

impl Cause {
    /// The word for it, for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Excluded => "excluded",
            Self::Labels => "labels",
            Self::Draining => "draining",
            Self::Starting => "starting",
            Self::OldEpoch => "old_epoch",
            Self::Dead => "dead",
        }
    }
}

impl Standing {
    /// The word for it, for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chosen { .. } => "chosen",
            Self::Outranked { .. } => "outranked",
            Self::NotConsidered(_) => "not_considered",
        }
    }

    /// The word for its rule or cause, for programs; `None` for an only candidate.
    #[must_use]
    pub const fn because(self) -> Option<&'static str> {
        match self {
            Self::Chosen { rule: None } => None,
            Self::Chosen { rule: Some(rule) } | Self::Outranked { rule, .. } => Some(rule.as_str()),
            Self::NotConsidered(cause) => Some(cause.as_str()),
        }
    }
}

/// The reason as a sentence for people, without the instance it is about.
impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.standing {
            Standing::Chosen { rule } => {
                f.write_str(match rule {
                    None => "chosen: the only candidate",
                    Some(Rule::Suspicion) => "chosen: the longest serving that is not suspect",
                    Some(Rule::Seniority) => "chosen: the longest serving",
                    Some(Rule::InstanceId) => "chosen: of the longest serving, the lowest instance id",
                })?;
                f.write_str(if self.suspect { ", although suspect: so is every candidate" } else { "" })
            }
            Standing::Outranked { by, rule } => match rule {
                Rule::Suspicion => write!(f, "outranked by {by}: this one is suspect, that one is not"),
                Rule::Seniority => write!(f, "outranked by {by}: that one has served for longer"),
                Rule::InstanceId => {
                    write!(f, "outranked by {by}: they started at the same time, that one has the lower instance id")
                }
            },
            Standing::NotConsidered(cause) => {
                f.write_str("not considered: ")?;
                f.write_str(match (cause, self.death) {
                    (Cause::Excluded, _) => "the request excludes it",
                    (Cause::Labels, _) => "it lacks a label that the request asks for",
                    (Cause::Draining, _) => "draining, it takes nothing new",
                    (Cause::Starting, _) => "starting, it is not ready for work yet",
                    (Cause::OldEpoch, _) | (Cause::Dead, Some(DeathReason::OldEpoch)) => {
                        "of an older epoch, which a rotation has ended"
                    }
                    (Cause::Dead, Some(DeathReason::Stale)) => "dead, no beat came within its TTL",
                    (Cause::Dead, Some(DeathReason::Deregistered)) => "dead, its owner deregistered it",
                    (Cause::Dead, Some(DeathReason::Replaced)) => "dead, a new registration took its place",
                    (Cause::Dead, Some(DeathReason::Operator)) => "dead, an operator declared it so",
                    (Cause::Dead, None) => "dead, for a reason that is not on record",
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use uuid::Uuid;

    use super::*;

    fn id(id: u128) -> InstanceId {
        InstanceId(Uuid::from_u128(id))
    }

    /// An instance that Resolve may give, started at a second.
    fn alive(instance: u128, second: i64) -> Candidate {
        Candidate {
            instance_id: id(instance),
            status: InstanceStatus::Alive,
            death: None,
            epoch_is_current: true,
            suspect: false,
            started_at: DateTime::from_timestamp(second, 0).unwrap(),
            excluded: false,
            labels_match: true,
        }
    }

    fn told(candidates: &[Candidate]) -> Vec<(u128, String)> {
        explain(candidates).iter().map(|it| (it.instance_id.0.as_u128(), it.to_string())).collect()
    }

    #[test]
    fn each_candidate_names_the_winner_and_the_rule() {
        let suspect = Candidate { suspect: true, ..alive(1, 10) };
        let said = told(&[alive(4, 30), suspect, alive(3, 20), alive(2, 20)]);
        let by = format!("outranked by {}", id(2));
        assert_eq!(
            said,
            [
                (2, "chosen: of the longest serving, the lowest instance id".to_owned()),
                (3, format!("{by}: they started at the same time, that one has the lower instance id")),
                (4, format!("{by}: that one has served for longer")),
                (1, format!("{by}: this one is suspect, that one is not")),
            ]
        );
    }

    #[test]
    fn resolve_explains_its_choice() {
        let suspect = |instance, second| Candidate { suspect: true, ..alive(instance, second) };
        let why = |candidates: &[Candidate]| told(candidates)[0].1.clone();
        assert_eq!(why(&[alive(1, 1)]), "chosen: the only candidate");
        assert_eq!(why(&[alive(2, 1), alive(1, 2)]), "chosen: the longest serving");
        assert_eq!(why(&[suspect(1, 1), alive(2, 2)]), "chosen: the longest serving that is not suspect");
        assert_eq!(why(&[suspect(1, 1)]), "chosen: the only candidate, although suspect: so is every candidate");
    }

    #[test]
    fn excluded_instance_names_its_reason() {
        let with = |instance, status| Candidate { status, ..alive(instance, 1) };
        let dead = |instance, death| Candidate { status: InstanceStatus::Dead, death, ..alive(instance, 1) };
        let candidates = [
            dead(9, None),
            dead(8, Some(DeathReason::Stale)),
            Candidate { epoch_is_current: false, ..dead(7, Some(DeathReason::OldEpoch)) },
            Candidate { epoch_is_current: false, ..dead(6, Some(DeathReason::Stale)) },
            Candidate { epoch_is_current: false, ..alive(5, 1) },
            with(4, InstanceStatus::Starting),
            with(3, InstanceStatus::Draining),
            Candidate { labels_match: false, ..alive(2, 1) },
            Candidate { excluded: true, ..alive(1, 1) },
        ];
        let causes: Vec<_> = explain(&candidates).iter().map(|it| (it.rank, it.standing.because())).collect();
        let expected = ["excluded", "labels", "draining", "starting", "old_epoch", "old_epoch", "dead", "dead", "dead"];
        assert_eq!(causes, expected.map(|cause| (None, Some(cause))));
        let said = told(&candidates);
        assert_eq!(said[6], (6, "not considered: dead, no beat came within its TTL".to_owned()));
        assert_eq!(said[8], (9, "not considered: dead, for a reason that is not on record".to_owned()));
    }

    fn candidate() -> impl Strategy<Value = Candidate> {
        let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
        let status = prop::sample::select(&InstanceStatus::ALL[..]);
        let death = prop::option::of(prop::sample::select(&DeathReason::ALL[..]));
        (0..12u128, status, death, flags, 0..4i64).prop_map(
            |(instance, status, death, (epoch_is_current, suspect, excluded, labels_match), second)| Candidate {
                status,
                death: death.filter(|_| status == InstanceStatus::Dead),
                epoch_is_current,
                suspect,
                excluded,
                labels_match,
                ..alive(instance, second)
            },
        )
    }

    proptest! {
        #[test]
        fn candidates_come_first_by_rank_and_none_is_left_out(
            candidates in vec(candidate(), 0..12),
        ) {
            let explained = explain(&candidates);
            let mut before: Vec<_> = candidates.iter().map(|candidate| candidate.instance_id).collect();
            let mut after: Vec<_> = explained.iter().map(|it| it.instance_id).collect();
            before.sort_unstable();
            after.sort_unstable();
            prop_assert_eq!(before, after);

            // The conditions as Resolve has them.
            let mut ranks: Vec<Rank> = candidates
                .iter()
                .filter(|it| it.status == InstanceStatus::Alive && it.epoch_is_current)
                .filter(|it| !it.excluded && it.labels_match)
                .map(Candidate::rank)
                .collect();
            ranks.sort_unstable();
            for (place, (rank, it)) in ranks.iter().zip(&explained).enumerate() {
                prop_assert_eq!((it.rank, it.instance_id), (Some(place + 1), rank.instance_id));
                let chosen = matches!(it.standing, Standing::Chosen { .. });
                prop_assert_eq!(chosen, place == 0);
            }
            for it in explained.iter().skip(ranks.len()) {
                prop_assert!(matches!(it.standing, Standing::NotConsidered(_)) && it.rank.is_none());
            }
        }
    }
}
