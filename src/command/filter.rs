//! Which instances a command is about: the flags that `list` and `watch` share.

use musterd_client::Filter;

use super::{
    client::{label_map, parse_label},
    exit::Error,
};

/// Conditions, all of which must hold.
#[derive(Debug, clap::Args)]
pub(crate) struct FilterArgs {
    /// Only logical ids that begin with this
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,

    /// Only these statuses, separated by commas [default: all but dead]
    #[arg(long, value_name = "STATUS", value_enum, value_delimiter = ',')]
    status: Vec<Status>,

    /// Only instances of this node
    #[arg(long, value_name = "NODE", default_value = "", hide_default_value = true)]
    node: String,

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

impl From<Status> for musterd_client::Status {
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
    /// The conditions; without a status, the daemon's choice.
    ///
    /// # Errors
    ///
    /// As [`label_map`].
    pub(crate) fn filter(&self, name: Option<&str>) -> Result<Filter, Error> {
        let filter = name.map_or_else(|| Filter::prefix(&self.prefix), Filter::logical_id).node(&self.node);
        let filter = self.status.iter().fold(filter, |filter, status| filter.status((*status).into()));
        Ok(label_map(&self.label)?.into_iter().fold(filter, |filter, (key, value)| filter.label(key, value)))
    }
}
