//! Why a text is no usable database URL.

/// Why a text is no usable database URL: one line with the way out, to be read after the name of the flag. Never holds
/// a part of the text that may be the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(String);

impl UrlError {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}
