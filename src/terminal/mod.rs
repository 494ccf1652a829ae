//! What a person at a terminal sees: forms of data, escapes, colours, and spans of time in words.
//!
//! It knows nothing of the registry: commands and benchmarks give it texts and documents.

pub(crate) mod args;
pub(crate) mod cursor;
pub(crate) mod output;
pub(crate) mod paint;
pub(crate) mod visible;
pub(crate) mod words;
