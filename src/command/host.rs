//! What the machine says about itself: its name, and who runs this.

use nix::unistd::{User, geteuid, gethostname};

/// The name of this machine, empty if it has none that is text.
pub(crate) fn name() -> String {
    gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}

/// Who runs this program, for a record: `user@host`.
pub(crate) fn operator() -> String {
    let uid = geteuid();
    let user = User::from_uid(uid).ok().flatten().map_or_else(|| format!("uid {uid}"), |user| user.name);
    format!("{user}@{}", name())
}
