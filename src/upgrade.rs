//! `musterd local upgrade`: takes the private PostgreSQL of `serve` to another major version.
//!
//! Joins the two servers ([`crate::local`]) and the copy of the registry ([`crate::migrate`]), which know nothing of each
//! other.

use std::{io, path::PathBuf};

use serde_json::json;

use crate::{
    copy::{Copied, copy},
    local::{self, Durability, Finished, Options, Upgrade},
    migrate,
    terminal::output::{self, OutputArgs},
};

/// Shown after the help of the command.
pub const EXAMPLES: &str = "\
Examples:
  # Debian: PostgreSQL 17 is installed beside 15, the daemon is stopped
  musterd local upgrade --data-dir /var/lib/musterd
  # With programs that are somewhere else
  musterd local upgrade --data-dir /var/lib/musterd \\
    --postgres-bin-dir /opt/pg17/bin --old-postgres-bin-dir /opt/pg15/bin

The former cluster is kept as postgres.old-<version> in the data directory. It is
safe to repeat the command, also after it was interrupted.";

/// Why an upgrade did not come to its end. The former cluster is in place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A server could not be started, or a directory renamed.
    #[error(transparent)]
    Local(#[from] local::Error),
    /// The registry could not be copied.
    #[error(transparent)]
    Copy(#[from] migrate::Error),
    /// Standard output failed.
    #[error("input or output failed")]
    Io(#[from] io::Error),
}

impl Error {
    /// The exit code for a command that ends with this error.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Local(_) => 78,
            Self::Copy(error) => error.exit_code(),
            Self::Io(_) => 1,
        }
    }
}

/// Subcommands of `local`.
#[derive(Debug, clap::Subcommand)]
pub enum LocalCommand {
    /// Move the private PostgreSQL of a stopped daemon to a newer major version
    #[command(after_help = EXAMPLES)]
    Upgrade(UpgradeArgs),
}

/// Arguments of `local upgrade`.
#[derive(Debug, clap::Args)]
pub struct UpgradeArgs {
    /// Directory of the private PostgreSQL, as for serve
    #[arg(long, env = "MUSTERD_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,

    /// Directory of the server programs to move to [default: the newest that are found]
    #[arg(long, env = "MUSTERD_POSTGRES_BIN_DIR", value_name = "DIR")]
    postgres_bin_dir: Option<PathBuf>,

    /// Directory of the server programs that made the cluster [default: searched for]
    #[arg(long, env = "MUSTERD_OLD_POSTGRES_BIN_DIR", value_name = "DIR")]
    old_postgres_bin_dir: Option<PathBuf>,

    #[command(flatten)]
    output: OutputArgs,
}

/// Runs a subcommand.
///
/// # Errors
///
/// Any [`Error`].
pub async fn run(command: LocalCommand) -> Result<(), Error> {
    match command {
        LocalCommand::Upgrade(args) => upgrade(args).await,
    }
}

async fn upgrade(args: UpgradeArgs) -> Result<(), Error> {
    let options = Options {
        data_dir: std::path::absolute(&args.data_dir)?,
        bin_dir: args.postgres_bin_dir,
        run_as: None,
        durability: Durability::Full,
    };
    let Some(upgrade) = Upgrade::begin(&options, args.old_postgres_bin_dir.as_deref()).await? else {
        output::print_answer(args.output.output, || json!({ "moved": false }), Vec::new, String::new)?;
        output::note("the private PostgreSQL has the major version of these server programs, nothing to do");
        return Ok(());
    };
    let (copied, finished) = match copy(upgrade.old_url(), upgrade.new_url()).await {
        Ok(copied) => (copied, upgrade.finish().await?),
        Err(error) => {
            upgrade.give_up().await;
            return Err(error.into());
        }
    };
    show(&args.output, &copied, &finished)
}

fn show(args: &OutputArgs, copied: &Copied, finished: &Finished) -> Result<(), Error> {
    let Finished { from, to, kept } = finished;
    let Copied { instances, epoch_number, revision } = copied;
    output::print_answer(
        args.output,
        || {
            json!({
                "moved": true, "from": from, "to": to, "kept": kept.display().to_string(),
                "instances": instances, "epochNumber": epoch_number, "revision": revision,
            })
        },
        || vec![kept.display().to_string()],
        String::new,
    )?;
    if args.output.is_table() {
        let epoch = epoch_number.map_or_else(|| "no epoch yet".to_owned(), |number| format!("epoch {number}"));
        let revision = revision.map(|revision| format!(", revision {revision}")).unwrap_or_default();
        output::note(&format!("moved {instances} instances, {epoch}{revision}, from PostgreSQL {from} to {to}"));
        output::note(&format!(
            "the former cluster is kept in {}; remove it when it is no longer needed",
            kept.display()
        ));
        output::note("settings that were changed in its postgresql.conf or postgresql.auto.conf are not taken over");
    }
    Ok(())
}
