//! What an identity may, verb by verb: what the policy says of it, computed once.

use std::{net::IpAddr, sync::LazyLock};

use crate::rights::{
    Names, Verb,
    addresses::{self, Addresses},
    names::Pattern,
    quota::Limits,
};

/// The rights of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grants {
    names: [Names; Verb::ALL.len()],
    /// Where a rule limits the addresses: of each rule that grants `register` the names and the addresses.
    places: Vec<(Names, Vec<Addresses>)>,
    limits: Limits,
}

impl Grants {
    /// Of each verb the names of these patterns.
    pub(super) fn of(patterns: [Vec<Pattern>; Verb::ALL.len()]) -> Self {
        Self { names: patterns.map(Names::of), places: Vec::new(), limits: Limits::default() }
    }

    /// Every verb on every name.
    pub(super) fn everything() -> Self {
        Self { names: Verb::ALL.map(|_| Names::everything()), places: Vec::new(), limits: Limits::default() }
    }

    /// With these places of registrations, of which at least one limits the addresses.
    pub(super) fn with_places(self, places: Vec<(Names, Vec<Addresses>)>) -> Self {
        Self { places, ..self }
    }

    /// With these limits.
    pub(super) fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The names that a verb is granted on.
    pub(super) fn names(&self, verb: Verb) -> &Names {
        // The array has a place for each verb; the fallback is there because indexing may not panic.
        static NOTHING: LazyLock<Names> = LazyLock::new(Names::nothing);
        self.names.get(verb.index()).unwrap_or(&NOTHING)
    }

    /// Whether a caller at `peer` may register this logical id at this address; if not, which addresses it may.
    pub(super) fn admit_address(&self, name: &str, address: IpAddr, peer: Option<IpAddr>) -> Result<(), String> {
        let of_name = || self.places.iter().filter(|(names, _)| names.contains(name));
        if self.places.is_empty() || of_name().any(|(_, places)| addresses::admit(places, address, peer)) {
            return Ok(());
        }
        let allowed: Vec<String> = of_name().flat_map(|(_, places)| places).map(ToString::to_string).collect();
        Err(allowed.join(", "))
    }

    /// What it may use.
    pub(super) const fn limits(&self) -> &Limits {
        &self.limits
    }
}
