//! A decision on record: what was done to the cluster, when, and which identity asked for it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::ids::Revision;

/// One row of `registry_audit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Its number, in the order of recording.
    pub id: u64,
    /// When.
    pub at: DateTime<Utc>,
    /// What was done.
    pub action: String,
    /// The identity that asked for it.
    pub by: String,
    /// The role of the session.
    pub by_role: String,
    /// To what.
    pub object: String,
    /// What else is known, as a JSON object.
    pub detail: String,
    /// The revision that it made, if it made one.
    pub revision: Option<Revision>,
}

/// What is recorded apart from a transaction of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteAction {
    /// A call was refused.
    Denied,
    /// Files or keys were put in use, or could not be.
    Reload,
}

/// An entry that a daemon writes apart from what it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// What it records.
    pub action: NoteAction,
    /// The identity; empty for a caller that is not known.
    pub by: String,
    /// The method, or the files.
    pub object: String,
    /// What else is known.
    pub detail: BTreeMap<&'static str, String>,
    /// How often, of a refusal.
    pub count: u64,
}

/// Which decisions are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecisionFilter {
    /// Recorded at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// This action alone.
    pub action: Option<String>,
    /// Of this identity alone.
    pub by: Option<String>,
}

/// The longest action or identity that is searched for.
pub const DECISION_FILTER_MAX_BYTES: usize = 2_048;
