//! What a call shows of its caller, on both ports.

use super::{certificate::Certificate, memory::Memory};

/// What a call shows of its caller, and from where it comes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call<'a> {
    /// The client certificate of its connection.
    pub certificate: Option<&'a Certificate>,
    /// Its `Authorization`.
    pub authorization: Option<&'a str>,
    /// The address it comes from, as a number; equal addresses have equal ones.
    pub address: u32,
    /// What the connection remembers.
    pub memory: Option<&'a Memory>,
}
