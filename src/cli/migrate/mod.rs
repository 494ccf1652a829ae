//! `musterd migrate`: the schema, for operators that do not let the daemon change it, and for databases of SeedCore.
//!
//! These talk to PostgreSQL directly, with whatever rights the URL has; `serve --no-migrate` can then run with fewer.
//! A private PostgreSQL needs none of this: its daemon migrates it at start.

mod adoption;
mod suite;
mod target;
mod text;

use serde_json::{Value, json};

use self::{
    target::{Target, database, each, other_database},
    text::{applied_json, applied_table, number, state_json, status_table},
};
use super::database::DatabaseArgs;
use crate::{
    command::{
        exit::{self, Error},
        host,
    },
    config::layered::Layered,
    migrate::{self, State, UpOptions},
    suite::SEEDCORE,
    terminal::output::{self, DocumentArgs, Format, OutputArgs},
};

/// Subcommands of `migrate`.
#[derive(Debug, clap::Subcommand)]
pub enum MigrateCommand {
    /// Apply what is pending; safe to run from several places at once
    Up(Box<UpArgs>),
    /// Show each migration and whether it is applied
    Status(Box<StatusArgs>),
    /// Show what `up` would run, with locks, rows and missing rights; exit with 10 if there is anything
    Plan(Box<adoption::PlanArgs>),
    /// Compare the database with what the migrations make; exit with 1 if it differs
    Verify(Box<VerifyArgs>),
    /// Record what SeedCore has made as applied, if all of it is there; makes nothing
    Adopt(Box<adoption::AdoptArgs>),
    /// Put back functions, views, triggers, comments and indexes that differ; changes no data
    Repair(Box<adoption::RepairArgs>),
    /// Give the registry back to SeedCore: its functions, views and indexes; every row stays
    Eject(Box<adoption::EjectArgs>),
}

/// Arguments of `migrate up`.
#[derive(Debug, clap::Args)]
pub struct UpArgs {
    /// Stop after this migration
    #[arg(long, value_name = "NUMBER")]
    to: Option<i32>,

    /// Refuse to number more rows than this under one lock (about 20 us for each)
    #[arg(long, value_name = "ROWS")]
    max_rows: Option<i64>,

    /// Delete the dead rows of SeedCore before the others are numbered, in batches; resumes where an interrupted run was
    #[arg(long)]
    purge_dead: bool,

    /// Every registry: of the tables [[registry]] of the configuration file, or of the database
    #[arg(long, conflicts_with = "suite")]
    all: bool,

    /// Let leases expire at once afterwards, instead of giving each its TTL once more
    #[arg(long)]
    no_hold: bool,

    /// An optional suite, instead of the registry's own migrations
    #[arg(long, value_name = "NAME", value_parser = [SEEDCORE], conflicts_with_all = ["to", "max_rows", "purge_dead", "no_hold"])]
    suite: Option<String>,

    /// Add the sample rows of the suite, once
    #[arg(long, requires = "suite")]
    samples: bool,

    #[command(flatten)]
    database: Layered<DatabaseArgs>,

    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `migrate verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Compare with the live schema of this other database instead
    #[arg(long, value_name = "URL")]
    against: Option<String>,

    /// Every registry: of the tables [[registry]] of the configuration file, or of the database
    #[arg(long, conflicts_with_all = ["suite", "against"])]
    all: bool,

    /// An optional suite, instead of the registry's own migrations
    #[arg(long, value_name = "NAME", value_parser = [SEEDCORE], conflicts_with = "against")]
    suite: Option<String>,

    #[command(flatten)]
    database: Layered<DatabaseArgs>,

    #[command(flatten)]
    output: DocumentArgs,
}

/// Arguments of `migrate status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Exit with 1 if anything is pending; with --detect, with 2 if what was applied is not there as it was made
    #[arg(long)]
    exit_code: bool,

    /// Compare each migration with the objects that are there, whatever the history says
    #[arg(long)]
    detect: bool,

    /// Every registry: of the tables [[registry]] of the configuration file, or of the database
    #[arg(long, conflicts_with = "suite")]
    all: bool,

    /// An optional suite, instead of the registry's own migrations
    #[arg(long, value_name = "NAME", value_parser = [SEEDCORE], conflicts_with = "detect")]
    suite: Option<String>,

    #[command(flatten)]
    database: Layered<DatabaseArgs>,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(command: MigrateCommand) -> Result<u8, Error> {
    match command {
        MigrateCommand::Up(args) => up(*args).await,
        MigrateCommand::Status(args) => status(*args).await,
        MigrateCommand::Verify(args) => verify(*args).await,
        MigrateCommand::Plan(args) => adoption::plan(*args).await,
        MigrateCommand::Adopt(args) => adoption::adopt(*args).await,
        MigrateCommand::Repair(args) => adoption::repair(*args).await,
        MigrateCommand::Eject(args) => adoption::eject(*args).await,
    }
}

async fn up(args: UpArgs) -> Result<u8, Error> {
    if args.suite.is_some() {
        return suite::up(database(args.database)?.expose(), args.output.output, args.samples).await;
    }
    let mut options = UpOptions::default();
    options.to = args.to.unwrap_or(options.to);
    (options.max_rows, options.hold, options.purge_dead) = (args.max_rows, !args.no_hold, args.purge_dead);
    each(args.database, args.all, async |target| up_at(target, &options, args.output.output).await).await
}

async fn up_at(target: Target<'_>, options: &UpOptions, format: Format) -> Result<u8, Error> {
    target.ensure_schema().await?;
    let report = migrate::up_with(target.place, options, &host::operator()).await?;
    output::print_answer(
        format,
        || {
            let applied: Vec<Value> = report.applied.iter().map(applied_json).collect();
            let answer = json!({
                "applied": applied, "current": report.current, "repaired": report.repaired, "purged": report.purged,
                "left": report.left,
            });
            target.answer(answer)
        },
        || report.applied.iter().map(|applied| applied.name.clone()).collect(),
        || applied_table(&report.applied),
    )?;
    if !format.is_table() {
        return Ok(exit::OK);
    }
    if options.purge_dead {
        output::note(&format!("{} dead rows deleted", report.purged));
    }
    for view in &report.left {
        output::note(&format!("not restored: {view}; drop the view with what depends on it, and run it again"));
    }
    output::note(&format!("the database is at {}, {} applied now", number(report.current), report.applied.len()));
    Ok(exit::OK)
}

async fn status(args: StatusArgs) -> Result<u8, Error> {
    let format = args.output.output;
    if args.suite.is_some() {
        return suite::status(database(args.database)?.expose(), format, args.exit_code).await;
    }
    each(args.database, args.all, async |target| match args.detect {
        true => adoption::detect(target, format, args.exit_code).await,
        false => status_at(target, format, args.exit_code).await,
    })
    .await
}

async fn status_at(target: Target<'_>, format: Format, exit_code: bool) -> Result<u8, Error> {
    let list = migrate::status(target.place).await?;
    let items = || list.iter().map(|status| target.answer(state_json(status))).collect();
    let text = output::answer_list(
        format,
        || Value::Array(items()),
        items,
        || list.iter().map(|status| status.name.clone()).collect(),
        || status_table(&list).text(),
    )?;
    output::print_text(&text)?;
    let pending = list.iter().any(|migration| migration.state == State::Pending);
    Ok(if exit_code && pending { exit::NEGATIVE } else { exit::OK })
}

async fn verify(args: VerifyArgs) -> Result<u8, Error> {
    let format = args.output.output;
    if args.suite.is_some() {
        return suite::verify(database(args.database)?.expose(), format).await;
    }
    let other = args.against.as_deref().map(other_database).transpose()?;
    each(args.database, args.all, async |target| {
        let differences = match &other {
            Some(other) => migrate::verify_against(target.place, other.expose()).await?,
            None => migrate::verify(target.place).await?,
        };
        differ(target, &differences, format)
    })
    .await
}

/// Prints what differs, with the exit code for it.
fn differ(target: Target<'_>, differences: &[String], format: Format) -> Result<u8, Error> {
    output::print_answer(
        format,
        || target.answer(json!({ "differences": differences })),
        Vec::new,
        || differences.iter().map(|difference| format!("{}\n", output::escape(difference))).collect(),
    )?;
    if differences.is_empty() {
        output::note("schema verified, no differences");
        return Ok(exit::OK);
    }
    output::note(&format!("{} differences", differences.len()));
    Ok(exit::NEGATIVE)
}
