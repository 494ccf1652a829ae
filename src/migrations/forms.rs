//! Definitions of SeedCore that are known: what its own migrations make of the views and functions of the registry.
//!
//! A database of SeedCore holds other texts than ours under the same names. Adopting one needs to tell SeedCore's own text
//! from a third one, and 011 and 012 of musterd from both. Digests are enough for that. SeedCore's bodies have not changed
//! since their first version, through all its renumbering, and servers from 13 to 18 print them alike.

use sha2::{Digest as _, Sha256};

use crate::schema::{Kind, Object};

/// By object: the digests of SeedCore's own definition and of the one that 011 or 012 makes.
const KNOWN: [(&str, [&str; 2]); 8] = [
    ("beat(uuid)", ["4cffdb984e03f5f9", "4cffdb984e03f5f9"]),
    ("expire_old_epoch_instances()", ["8f2d092e8ad41a07", "94721a356f251000"]),
    ("expire_stale_instances(integer)", ["3d471dcc7c86de98", "d111ecb94d52ac98"]),
    ("register_instance(uuid, text, uuid, text, text, text, inet, integer)", ["ebd621e81159b347", "f1f05fff0e99d1e6"]),
    ("set_current_epoch(uuid)", ["b60d06678bc65acf", "a95a4e33405f14b7"]),
    ("set_instance_status(uuid, instancestatus)", ["4a04fea3cccb20fc", "63d50ee08072dbfe"]),
    ("active_instance", ["b6597516b7a1b769", "0c5e358ecad3ce40"]),
    ("active_instances", ["b470b5c1011df9b3", "c2bf245e56cc552d"]),
];

/// The indexes that SeedCore has and 013 removes, as the catalogue prints them.
pub(crate) const SEED_INDEXES: [(&str, &str); 2] = [
    (
        "idx_instance_logical_id on registry_instance",
        "CREATE INDEX idx_instance_logical_id ON registry_instance USING btree (logical_id);",
    ),
    (
        "idx_instance_status_heartbeat on registry_instance",
        "CREATE INDEX idx_instance_status_heartbeat ON registry_instance USING btree (status, last_heartbeat DESC);",
    ),
];

/// Whether an object is as SeedCore, or 011 and 012, make it.
pub(crate) fn is_known(object: &Object) -> bool {
    match object.kind {
        Kind::Function | Kind::View => {
            let digest = digest(object);
            KNOWN.iter().any(|(name, digests)| *name == object.name && digests.contains(&digest.as_str()))
        }
        Kind::Index => SEED_INDEXES.iter().any(|(name, text)| *name == object.name && object.text.trim_end() == *text),
        Kind::Type | Kind::Table | Kind::Trigger => false,
    }
}

/// SHA-256 of a definition without comments and rights, and whatever its white space; the first 16 digits.
fn digest(object: &Object) -> String {
    let lines = object.text.lines().filter(|line| !line.starts_with("COMMENT ON ") && !line.starts_with("REVOKE ALL "));
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    Sha256::digest(words.join(" ")).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// A form in which SeedCore's suite exists, told by its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// The suite 001 to 012 of 2025.
    L1,
    /// The same with its task functions folded together, from November 2025.
    L2,
    /// Renumbered, from January 2026.
    L3,
}

impl Layout {
    /// Its name, and the files of the suite that make the runtime registry.
    #[must_use]
    pub const fn describe(self) -> (&'static str, [&'static str; 2]) {
        let first = ["011_add_runtime_registry.sql", "012_runtime_registry_functions.sql"];
        match self {
            Self::L1 => ("L1", first),
            Self::L2 => ("L2", first),
            Self::L3 => ("L3", ["009_runtime_instance_registry.sql", "010_runtime_control_logic.sql"]),
        }
    }
}
