//! Messages of the wire and values of the daemon, in both directions.
//!
//! - [`convert`]: requests into values (with every violation at once), values into answers.
//! - [`selection`]: which instances a request means; [`page_token`]: where a page ended.
//! - [`failure`]: everything a call can be refused for as one closed list, and its one translation into a status.
//! - [`answer_size`], [`bounds`]: how large an answer, a request and a connection may be.

pub mod answer_size;
pub(crate) mod bounds;
pub mod convert;
pub mod failure;
pub mod page_token;
pub(crate) mod selection;
