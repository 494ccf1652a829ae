//! Which instance of a logical id to choose.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{model::Instance, wire};

/// How to choose among the live instances of a logical id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// The longest serving one. The answer changes only when it must.
    #[default]
    Best,
    /// Any, with equal chances.
    Random,
    /// The one that this key falls to: when an instance dies, only its keys move.
    Rendezvous(String),
    /// One on this node if there is one, otherwise the best.
    Near(String),
}

/// Which instance to choose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    policy: Policy,
    excluded: Vec<Uuid>,
    labels: BTreeMap<String, String>,
}

impl Choice {
    /// The best instance.
    #[must_use]
    pub fn best() -> Self {
        Self::default()
    }

    /// By this policy.
    #[must_use]
    pub fn by(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Not this instance, for example because a call to it has just failed. At most 64.
    #[must_use]
    pub fn without(mut self, instance_id: Uuid) -> Self {
        self.excluded.push(instance_id);
        self
    }

    /// Only instances that carry this label. At most 64.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    pub(crate) const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether an instance may be chosen.
    pub(crate) fn admits(&self, instance: &Instance) -> bool {
        !self.excluded.contains(&instance.instance_id)
            && self.labels.iter().all(|(key, value)| instance.labels.get(key) == Some(value))
    }

    pub(crate) fn to_wire(&self) -> wire::ResolveChoice {
        let (policy, key, near_node_id) = match &self.policy {
            Policy::Best => (wire::ResolvePolicy::Best, String::new(), String::new()),
            Policy::Random => (wire::ResolvePolicy::Random, String::new(), String::new()),
            Policy::Rendezvous(key) => (wire::ResolvePolicy::Rendezvous, key.clone(), String::new()),
            Policy::Near(node) => (wire::ResolvePolicy::Near, String::new(), node.clone()),
        };
        wire::ResolveChoice {
            policy: policy.into(),
            key,
            near_node_id,
            excluded_instance_ids: self.excluded.iter().map(Uuid::to_string).collect(),
            labels: self.labels.clone().into_iter().collect(),
        }
    }
}
