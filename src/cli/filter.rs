//! Which instances a command is about: the flags that `list` and `watch` share.

use super::{
    client::{label_map, parse_label},
    exit::Error,
};
use crate::proto::v1::InstanceStatus;

/// Conditions, all of which must hold.
#[derive(Debug, clap::Args)]
pub(super) struct FilterArgs {
    /// Only logical ids that begin with this
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    pub(super) prefix: String,

    /// Only these statuses, separated by commas [default: all but dead]
    #[arg(long, value_name = "STATUS", value_enum, value_delimiter = ',')]
    status: Vec<Status>,

    /// Only instances of this node
    #[arg(long, value_name = "NODE", default_value = "", hide_default_value = true)]
    pub(super) node: String,

    /// Only instances with this label; may be repeated, all must match
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
}

/// A status as a word of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Status {
    Starting,
    Alive,
    Draining,
    Dead,
}

impl From<Status> for InstanceStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Starting => Self::Starting,
            Status::Alive => Self::Alive,
            Status::Draining => Self::Draining,
            Status::Dead => Self::Dead,
        }
    }
}

impl FilterArgs {
    /// The statuses, as the protocol's numbers; none for the daemon's choice.
    pub(super) fn statuses(&self) -> Vec<i32> {
        self.status.iter().map(|&word| InstanceStatus::from(word).into()).collect()
    }

    /// The labels.
    ///
    /// # Errors
    ///
    /// As [`label_map`].
    pub(super) fn labels(&self) -> Result<std::collections::HashMap<String, String>, Error> {
        label_map(&self.label)
    }
}
