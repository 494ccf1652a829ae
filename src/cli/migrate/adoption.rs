//! The commands around a database that SeedCore made or shares: detect, plan, adopt, repair, eject.

use serde_json::json;

use super::{
    target::{Target, database},
    text::{detected_json, detection_json, detection_text, plan_json, plan_text},
};
use crate::{
    cli::database::DatabaseArgs,
    command::{
        exit::{self, Error},
        host,
    },
    config::layered::Layered,
    migrate::{self, Place, PlanOptions, State},
    terminal::output::{self, DocumentArgs, Format, OutputArgs, escape},
};

/// Arguments of `migrate plan`.
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// Print the SQL alone, for psql --single-transaction
    #[arg(long, conflicts_with = "output")]
    sql: bool,

    /// Show which rights this role lacks, instead of the role of the database URL
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,

    /// Plan for this schema, instead of the one that the search path leads to
    #[arg(long, value_name = "SCHEMA")]
    schema: Option<String>,

    /// Also delete the dead rows of SeedCore before the others are numbered, as `up --purge-dead`
    #[arg(long)]
    purge_dead: bool,

    #[command(flatten)]
    database: Layered<DatabaseArgs>,

    #[command(flatten)]
    output: DocumentArgs,
}

/// Arguments of `migrate adopt`.
#[derive(Debug, clap::Args)]
pub struct AdoptArgs {
    #[command(flatten)]
    database: Layered<DatabaseArgs>,

    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `migrate repair`.
#[derive(Debug, clap::Args)]
pub struct RepairArgs {
    /// Put back what differs; without this, list it and exit with 1 if there is anything
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    database: Layered<DatabaseArgs>,

    #[command(flatten)]
    output: DocumentArgs,
}

/// Arguments of `migrate eject`.
#[derive(Debug, clap::Args)]
pub struct EjectArgs {
    /// Let only the roles that may call the functions now do so; without this, every role may, as with SeedCore
    #[arg(long)]
    keep_roles: bool,

    #[command(flatten)]
    database: Layered<DatabaseArgs>,

    #[command(flatten)]
    output: DocumentArgs,
}

/// `migrate status --detect`.
pub(super) async fn detect(target: Target<'_>, format: Format, exit_code: bool) -> Result<u8, Error> {
    let detection = migrate::detect(target.place).await?;
    let text = output::answer_list(
        format,
        || target.answer(detection_json(&detection)),
        || detection.migrations.iter().map(detected_json).collect(),
        || detection.migrations.iter().map(|one| one.recorded.name.clone()).collect(),
        || detection_text(&detection),
    )?;
    output::print_text(&text)?;
    let is_pending = detection.migrations.iter().any(|one| one.recorded.state == State::Pending);
    Ok(match (exit_code, detection.has_drift(), is_pending) {
        (true, true, _) => exit::DRIFT,
        (true, _, true) => exit::NEGATIVE,
        _ => exit::OK,
    })
}

pub(super) async fn plan(args: PlanArgs) -> Result<u8, Error> {
    let url = database(args.database)?;
    let mut options = PlanOptions::default();
    (options.role, options.purge_dead) = (args.role, args.purge_dead);
    let place = Place { url: url.expose(), schema: args.schema.as_deref() };
    let plan = migrate::plan_with(place, &options, &host::operator()).await?;
    if args.sql {
        output::print_text(&plan.to_string())?;
    } else {
        output::print_answer(args.output.output, || plan_json(&plan), Vec::new, || plan_text(&plan))?;
    }
    if plan.steps.is_empty() {
        output::note("there is nothing to do");
        return Ok(exit::OK);
    }
    Ok(exit::PLANNED)
}

pub(super) async fn adopt(args: AdoptArgs) -> Result<u8, Error> {
    let url = database(args.database)?;
    let recorded = migrate::adopt(url.expose(), &host::operator()).await?;
    let names = || recorded.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let lines = || recorded.iter().map(|name| format!("recorded {name}\n")).collect();
    output::print_answer(args.output.output, || json!({ "recorded": recorded }), names, lines)?;
    if recorded.is_empty() {
        output::note("nothing to record: both migrations of SeedCore are in the history");
    }
    Ok(exit::OK)
}

pub(super) async fn repair(args: RepairArgs) -> Result<u8, Error> {
    let url = database(args.database)?;
    let preview = migrate::repair(url.expose(), false).await?;
    let is_whole = preview.done.is_empty();
    let repair = if args.yes && !is_whole { migrate::repair(url.expose(), true).await? } else { preview };
    output::print_answer(
        args.output.output,
        || json!({ "applied": args.yes, "repaired": repair.done, "left": repair.left }),
        Vec::new,
        || {
            let done = repair.done.iter().map(|line| format!("{}\n", escape(line)));
            done.chain(repair.left.iter().map(|line| format!("left: {}\n", escape(line)))).collect()
        },
    )?;
    if !args.yes && !is_whole {
        output::note("nothing was changed; run it again with --yes");
    }
    if !repair.left.is_empty() {
        output::note("what is left holds data or rules about data; change it by hand");
    }
    Ok(if (args.yes || is_whole) && repair.left.is_empty() { exit::OK } else { exit::NEGATIVE })
}

pub(super) async fn eject(args: EjectArgs) -> Result<u8, Error> {
    let url = database(args.database)?;
    let ejected = migrate::eject(url.expose(), args.keep_roles, &host::operator()).await?;
    output::print_answer(args.output.output, || json!({ "ejected": ejected }), Vec::new, String::new)?;
    output::note(if ejected {
        "SeedCore's functions, views and indexes are back; rows, columns and triggers stay, so a dead instance stays dead \
         and an epoch is not used twice; musterd migrate up takes the registry over again"
    } else {
        "the registry was given back before; nothing was changed"
    });
    Ok(exit::OK)
}
