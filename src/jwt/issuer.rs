//! An issuer of tokens, as the policy has it: what its tokens must say, and where its keys are.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use http::Uri;
use thiserror::Error;

use super::template::Template;

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In a file.
    File(PathBuf),
    /// At this address.
    Url(Uri),
    /// Where the issuer's own configuration says: `ISSUER/.well-known/openid-configuration`.
    Discovery(Uri),
}

/// A table `[[issuer]]` of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// What `iss` must be, to the letter.
    pub name: String,
    /// What `aud` must be or hold, to the letter.
    pub audience: String,
    /// Where its keys are.
    pub location: Location,
    /// The CAs of the server that has the keys; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// A file with a token that the server wants to see.
    pub bearer_file: Option<PathBuf>,
    /// How the holders of its tokens are named.
    pub identity: Template,
    /// How long a token may still be valid.
    pub max_ttl: Duration,
}

/// Why a text is no address of keys.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no https address; write https://HOST/PATH, without user, query and fragment")]
pub struct UrlError(pub String);

/// Reads an https address.
///
/// # Errors
/// [`UrlError`].
pub fn https_url(text: &str) -> Result<Uri, UrlError> {
    let refuse = || UrlError(text.to_owned());
    let uri: Uri = text.parse().map_err(|_| refuse())?;
    let has_host = uri.authority().is_some_and(|it| !it.host().is_empty() && !it.as_str().contains('@'));
    // Uri drops a fragment without a word.
    if uri.scheme_str() != Some("https") || !has_host || text.contains(['#', '?']) {
        return Err(refuse());
    }
    Ok(uri)
}

impl Issuer {
    /// The same with its files in a directory, if they are named without one: that of the policy.
    #[must_use]
    pub fn in_directory(mut self, directory: &Path) -> Self {
        let files = [self.ca.as_mut(), self.bearer_file.as_mut()];
        let keys = if let Location::File(path) = &mut self.location { Some(path) } else { None };
        for path in files.into_iter().chain([keys]).flatten() {
            // An absolute path stays as it is.
            *path = directory.join(&*path);
        }
        self
    }
}
