//! A decision about a caller, as the log and the ledger are told of it.

/// What an entry says besides the decision.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The identity that asks; empty if it is not known.
    pub identity: &'a str,
    /// By which kind of credential.
    pub kind: &'a str,
    /// From where.
    pub peer: &'a str,
    /// What for: the method, or the path.
    pub method: &'a str,
    /// Of what: names and ids.
    pub object: &'a str,
}
