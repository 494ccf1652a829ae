//! `musterd migrate up|status|verify`: the schema, for operators who do not let the daemon change it.
//!
//! These talk to PostgreSQL directly, with whatever rights the URL has; `serve --no-migrate` can then run with fewer.
//! A private PostgreSQL needs none of this: its daemon migrates it at start.

use chrono::SecondsFormat;
use serde_json::{Value, json};

use super::{
    database::{self, DatabaseArgs},
    serve::ServeArgs,
};
use crate::{
    command::{
        exit::{self, Error},
        host,
    },
    config::{DatabaseUrl, layered::Layered},
    migrate::{self, State},
    terminal::output::{self, DocumentArgs, OutputArgs, Table},
};

/// Subcommands of `migrate`.
#[derive(Debug, clap::Subcommand)]
pub enum MigrateCommand {
    /// Apply what is pending; safe to run from several places at once
    Up(Box<Args>),
    /// Show each migration and whether it is applied
    Status(Box<StatusArgs>),
    /// Compare the database with what the migrations make; exit with 1 if it differs
    Verify(Box<VerifyArgs>),
}

/// Arguments of `migrate up`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    database: Layered<DatabaseArgs>,

    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `migrate verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    database: Layered<DatabaseArgs>,

    #[command(flatten)]
    output: DocumentArgs,
}

/// Arguments of `migrate status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Exit with 1 if anything is pending
    #[arg(long)]
    exit_code: bool,

    #[command(flatten)]
    database: Layered<DatabaseArgs>,

    #[command(flatten)]
    output: OutputArgs,
}

/// Which database; unlike `serve`, these commands have none of their own.
fn database(mut args: Layered<DatabaseArgs>) -> Result<DatabaseUrl, Error> {
    database::resolve::<_, ServeArgs>(&mut args)?.map(|source| source.current()).ok_or_else(|| {
        Error::Usage("which database? give --database-url, --database-url-file or --config, or their variables".into())
    })
}

pub(super) async fn run(command: MigrateCommand) -> Result<u8, Error> {
    match command {
        MigrateCommand::Up(args) => up(*args).await,
        MigrateCommand::Status(args) => status(*args).await,
        MigrateCommand::Verify(args) => verify(*args).await,
    }
}

async fn up(args: Args) -> Result<u8, Error> {
    let url = database(args.database)?;
    let report = migrate::up(url.expose(), &host::operator()).await?;
    let format = args.output.output;
    output::print_answer(
        format,
        || {
            let applied = |a: &migrate::Applied| json!({ "version": a.version, "name": a.name, "durationSeconds": a.duration.as_secs_f64() });
            let applied: Vec<Value> = report.applied.iter().map(applied).collect();
            json!({ "applied": applied, "current": report.current, "repaired": report.repaired, "left": report.left })
        },
        || report.applied.iter().map(|applied| applied.name.clone()).collect(),
        || {
            let mut table = Table::new(["VERSION", "NAME", "TOOK"]);
            for applied in &report.applied {
                table.row([number(applied.version), applied.name.clone(), millis(applied.duration)]);
            }
            if report.applied.is_empty() { String::new() } else { table.text() }
        },
    )?;
    if !format.is_table() {
        return Ok(exit::OK);
    }
    for view in &report.left {
        output::note(&format!("not restored: {view}; drop the view with what depends on it, and run it again"));
    }
    output::note(&format!("the database is at {}, {} applied now", number(report.current), report.applied.len()));
    Ok(exit::OK)
}

async fn status(args: StatusArgs) -> Result<u8, Error> {
    let url = database(args.database)?;
    let list = migrate::status(url.expose()).await?;
    let items = || list.iter().map(status_json).collect();
    let text = output::answer_list(
        args.output.output,
        || Value::Array(items()),
        items,
        || list.iter().map(|status| status.name.clone()).collect(),
        || status_table(&list).text(),
    )?;
    output::print_text(&text)?;
    let pending = list.iter().any(|migration| migration.state == State::Pending);
    Ok(if args.exit_code && pending { exit::NEGATIVE } else { exit::OK })
}

async fn verify(args: VerifyArgs) -> Result<u8, Error> {
    let url = database(args.database)?;
    let differences = migrate::verify(url.expose()).await?;
    output::print_answer(
        args.output.output,
        || json!({ "differences": differences }),
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

/// `011`, as in the file's name.
fn number(version: i32) -> String {
    format!("{version:03}")
}

fn millis(duration: std::time::Duration) -> String {
    format!("{}ms", duration.as_millis())
}

fn state_word(state: State) -> &'static str {
    match state {
        State::Applied => "applied",
        State::Pending => "pending",
        State::Changed => "changed",
        State::Unknown => "unknown",
    }
}

fn status_json(status: &migrate::Status) -> Value {
    json!({
        "version": status.version,
        "name": status.name,
        "state": state_word(status.state),
        "appliedAt": status.applied_at.map(|at| at.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
        "appliedBy": status.applied_by,
        "durationSeconds": status.duration.map(|duration| duration.as_secs_f64()),
    })
}

fn status_table(list: &[migrate::Status]) -> Table<6> {
    let mut table = Table::new(["VERSION", "NAME", "STATE", "APPLIED", "BY", "TOOK"]);
    for status in list {
        table.row([
            number(status.version),
            status.name.clone(),
            state_word(status.state).to_owned(),
            status.applied_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)).unwrap_or_default(),
            status.applied_by.clone().unwrap_or_default(),
            status.duration.map(millis).unwrap_or_default(),
        ]);
    }
    table
}
