//! The text of a policy, for errors that name line and column.

use super::rule::PolicyError;
use crate::model::TextPosition;

/// A text, and where things stand in it.
pub(super) struct Source<'a>(pub(super) &'a str);

impl Source<'_> {
    pub(super) fn refuse<T>(&self, at: usize, what: impl Into<String>) -> Result<T, PolicyError> {
        Err(PolicyError { at: TextPosition::of(self.0, at), what: what.into() })
    }
}
