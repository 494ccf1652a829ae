//! `musterd config show|check`: what a daemon would run with, and why, without running it.
//!
//! Both take the flags of `serve`, read the same environment and the same file, and end where `serve` would begin to
//! listen. What `serve` would refuse they refuse in the same words, with the same exit code.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    serve::{self, ServeArgs},
    whoami::limit,
};
use crate::{
    access,
    command::exit::{self, Error},
    config::layered::{Layered, Origin, Setting},
    terminal::output::{self, OutputArgs, Table},
};

/// Subcommands of `config`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every setting of serve, its value and where that comes from; secrets are hidden
    Show(Box<ShowArgs>),
    /// Say whether serve would accept its configuration; exit with 78 if not
    Check(Box<Layered<ServeArgs>>),
}

/// Arguments of `config show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    #[command(flatten)]
    serve: Layered<ServeArgs>,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  # What would serve run with, and where does each value come from?
  musterd config show
  # Try a file before it goes live
  musterd config check --config deploy/musterd.toml";

pub(super) fn run(command: ConfigCommand) -> Result<u8, Error> {
    match command {
        ConfigCommand::Show(args) => show(*args),
        ConfigCommand::Check(args) => check(*args),
    }
}

fn show(args: ShowArgs) -> Result<u8, Error> {
    let (config, mut settings) = serve::resolve(args.serve)?;
    if let Some(files) = &config.access {
        settings.extend(quotas(&files.policy));
    }
    let items = || settings.iter().map(json).collect();
    let text = output::answer_list(
        args.output.output,
        || Value::Array(items()),
        items,
        || settings.iter().map(|setting| setting.key.clone()).collect(),
        || table(&settings).text(),
    )?;
    output::print_text(&text)?;
    Ok(exit::OK)
}

/// The quotas of an identity: the defaults, and what rules of the policy set instead.
fn quotas(policy: &Path) -> Vec<Setting> {
    // A policy that cannot be used is refused before.
    let quotas = access::read_policy(policy).map(|policy| policy.quotas()).unwrap_or_default();
    let row = |(line, unit, most): (Option<usize>, &str, u64)| Setting {
        key: format!("quota.{unit}"),
        value: Some(limit(unit, most)),
        origin: line.map_or(Origin::Default, |line| Origin::File { path: policy.to_owned(), line }),
        is_secret: false,
    };
    quotas.into_iter().map(row).collect()
}

fn check(args: Layered<ServeArgs>) -> Result<u8, Error> {
    let (config, _) = serve::resolve(args)?;
    if let Some(warning) = config.database_url.as_ref().and_then(|source| source.current().warning()) {
        output::note(&format!("warning: --database-url: {warning}"));
    }
    output::note("the configuration is valid");
    Ok(exit::OK)
}

fn table(settings: &[Setting]) -> Table<3> {
    let mut table = Table::new(["SETTING", "VALUE", "ORIGIN"]);
    for setting in settings {
        table.row([setting.key.clone(), setting.value.clone().unwrap_or_default(), setting.origin.to_string()]);
    }
    table
}

fn json(setting: &Setting) -> Value {
    json!({
        "setting": setting.key,
        "value": setting.value,
        "origin": setting.origin.word(),
        "source": setting.origin.source(),
    })
}
