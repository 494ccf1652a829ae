//! The policy and the tokens on disk, which are taken together: a rule and the token that it is for may come in one change.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::{
    live::Access,
    policy::{Policy, PolicyError},
    tokens::{FILE_MAX_BYTES, TokenError, Tokens},
};
use crate::{
    clock::Clock,
    metrics::ReloadMetrics,
    reload::{Kept, Source},
};

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The policy.
    pub policy: PathBuf,
    /// The digests of the tokens. `None`: no static token is accepted.
    pub tokens: Option<PathBuf>,
}

/// What is wrong with the files: the setting, the file, the problem, the fix.
#[derive(Debug, Error)]
pub enum FileError {
    /// A file cannot be read.
    #[error("{flag}: cannot read {}: {cause}; correct the path, or let the user of the daemon (uid {uid}) read the file", path.display())]
    Unreadable {
        /// The setting.
        flag: &'static str,
        /// Where it is.
        path: PathBuf,
        /// The user that the daemon runs as.
        uid: u32,
        /// What the operating system says.
        cause: String,
    },
    /// The policy is not understood.
    #[error("{}:{cause}", path.display())]
    Policy {
        /// Where it is.
        path: PathBuf,
        /// Line and column, and what is wrong there.
        cause: PolicyError,
    },
    /// The tokens are not understood.
    #[error("{}:{cause}", path.display())]
    Tokens {
        /// Where they are.
        path: PathBuf,
        /// The line, and what is wrong with it.
        cause: TokenError,
    },
}

/// The contents in use.
#[derive(Debug)]
struct Loaded {
    policy: Policy,
    tokens: Tokens,
    digest: [u8; 32],
}

#[derive(Debug)]
struct OnDisk {
    files: Files,
    access: Access,
}

fn read(flag: &'static str, path: &Path) -> Result<String, FileError> {
    let uid = nix::unistd::geteuid().as_raw();
    let refuse = |cause: String| FileError::Unreadable { flag, path: path.into(), uid, cause };
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > FILE_MAX_BYTES => {
            return Err(refuse(format!("it is over {} MiB", FILE_MAX_BYTES >> 20)));
        }
        _ => {}
    }
    fs::read_to_string(path).map_err(|cause| refuse(cause.to_string()))
}

/// The contents of the files, as read together.
struct Contents {
    policy: String,
    tokens: Option<(PathBuf, String)>,
}

impl Contents {
    fn read(files: &Files) -> Result<Self, FileError> {
        let tokens = files.tokens.as_ref().map(|path| Ok((path.clone(), read("--tokens", path)?)));
        Ok(Self { policy: read("--policy", &files.policy)?, tokens: tokens.transpose()? })
    }

    /// Differs if any of the contents does.
    fn digest(&self) -> [u8; 32] {
        let mut all = Sha256::new();
        all.update(Sha256::digest(&self.policy));
        all.update(self.tokens.as_ref().map_or([0; 32], |(_, text)| Sha256::digest(text).into()));
        all.finalize().into()
    }
}

impl Loaded {
    fn new(files: &Files, contents: &Contents) -> Result<Self, FileError> {
        let policy = Policy::parse(&contents.policy);
        let policy = policy.map_err(|cause| FileError::Policy { path: files.policy.clone(), cause })?;
        let policy = policy.in_directory(files.policy.parent().unwrap_or(Path::new("")));
        let tokens = contents
            .tokens
            .as_ref()
            .map(|(path, text)| Tokens::parse(text).map_err(|cause| FileError::Tokens { path: path.clone(), cause }));
        Ok(Self { policy, tokens: tokens.transpose()?.unwrap_or_default(), digest: contents.digest() })
    }
}

impl Source for OnDisk {
    type Loaded = Loaded;
    type Error = FileError;

    fn load(&self, current: Option<&Loaded>) -> Result<Option<Loaded>, FileError> {
        let contents = Contents::read(&self.files)?;
        if current.is_some_and(|current| current.digest == contents.digest()) {
            return Ok(None);
        }
        Loaded::new(&self.files, &contents).map(Some)
    }

    fn changed(&self, loaded: &Loaded) {
        self.access.replace(loaded.policy.clone(), loaded.tokens.clone());
        let tokens = loaded.tokens.entries().count();
        let issuers = loaded.policy.issuers().len();
        tracing::info!(rules = loaded.policy.len(), issuers, tokens, "policy reloaded");
    }

    fn failed(&self, error: &str) {
        tracing::error!(error, "policy not reloaded, the previous one stays in force");
    }
}

/// Reads a policy, for a command that checks it.
///
/// # Errors
/// [`FileError`]: what is wrong with it.
pub fn read_policy(path: &Path) -> Result<Policy, FileError> {
    Policy::parse(&read("--policy", path)?).map_err(|cause| FileError::Policy { path: path.into(), cause })
}

/// Access by a policy on disk, which follows the files.
#[derive(Clone, Debug)]
pub struct Keeper(Arc<Kept<OnDisk>>);

impl Files {
    /// Checks the files.
    ///
    /// # Errors
    /// [`FileError`]: what is wrong with them.
    pub fn check(&self) -> Result<(), FileError> {
        Loaded::new(self, &Contents::read(self)?).map(drop)
    }

    /// Reads the files, and makes access by them.
    ///
    /// # Errors
    /// [`FileError`]: what is wrong with them.
    pub fn open(self, clock: Clock) -> Result<Keeper, FileError> {
        let loaded = Loaded::new(&self, &Contents::read(&self)?)?;
        let access = Access::new(loaded.policy.clone(), loaded.tokens.clone(), clock);
        Ok(Keeper(Arc::new(Kept::new(OnDisk { files: self, access }, loaded, ReloadMetrics::policy()))))
    }
}

impl Keeper {
    /// What callers are authenticated by.
    #[must_use]
    pub fn access(&self) -> Access {
        self.0.source().access.clone()
    }

    /// Tells of each reload from now on, with why the files cannot be used if they cannot.
    pub fn observe(&self, observer: impl Fn(Option<&str>) + Send + Sync + 'static) {
        self.0.observe(observer);
    }

    /// Reads the files again. Returns whether other contents are in use from now on.
    ///
    /// # Errors
    /// [`FileError`]: what was in use stays in use.
    pub fn reload(&self) -> Result<bool, FileError> {
        self.0.reload()
    }

    /// Keeps what is in use equal to the files, until told to stop.
    pub async fn keep_current(self, stop: CancellationToken) {
        self.0.keep_current(stop).await;
    }

    /// Why the files on disk are not in use, if they are not.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.0.failure()
    }
}
