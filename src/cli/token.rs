//! `musterd token`: static tokens, made, listed and revoked in the directory of `musterd security init`.

use std::{path::PathBuf, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};

use super::cert::print_paths;
use crate::{
    clock::Clock,
    command::exit::{self, Error},
    provision::{self, Directory, Listed},
    terminal::{
        args::parse_duration,
        output::{self, OutputArgs, Table},
    },
};

pub(super) const EXAMPLES: &str = "\
Examples:
  # A token for a router, in tls/router.token; the daemon takes it within seconds
  musterd token create tls router
  # Rotate it: make another one, hand it out, then end the former
  musterd token create tls router
  musterd token revoke tls router --keep-newest";

/// Subcommands of `token`.
#[derive(Debug, clap::Subcommand)]
pub enum TokenCommand {
    /// Make a token in DIR/NAME.token, and add its digest to DIR/tokens
    Create(CreateArgs),
    /// List the tokens in DIR/tokens
    List(ListArgs),
    /// Remove the tokens of a name from DIR/tokens
    Revoke(RevokeArgs),
}

/// Arguments of `token create`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Directory of the tokens file
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// Name of the token; its identity is token/NAME
    #[arg(value_name = "NAME", value_parser = provision::file_name)]
    name: String,

    /// How long the token is valid [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    valid_for: Option<Duration>,
}

/// Arguments of `token list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Directory of the tokens file
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `token revoke`.
#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// Directory of the tokens file
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// Name of the token
    #[arg(value_name = "NAME")]
    name: String,

    /// Keep the newest token of the name
    #[arg(long)]
    keep_newest: bool,
}

pub(super) fn run(command: TokenCommand) -> Result<u8, Error> {
    match command {
        TokenCommand::Create(args) => {
            let expires = args.valid_for.map(|valid_for| Clock::new().wall() + valid_for);
            print_paths(&[provision::create(&Directory::new(args.dir), &args.name, expires)?])
        }
        TokenCommand::List(args) => list(&args),
        TokenCommand::Revoke(args) => {
            let revoked = provision::revoke(&Directory::new(args.dir), &args.name, args.keep_newest)?;
            let plural = if revoked.len() == 1 { "token" } else { "tokens" };
            output::print_text(&format!("revoked {} {plural} of {}\n", revoked.len(), args.name))?;
            Ok(exit::OK)
        }
    }
}

fn moment(at: Option<DateTime<Utc>>) -> Option<String> {
    at.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true))
}

fn list(args: &ListArgs) -> Result<u8, Error> {
    let tokens = provision::list(&Directory::new(&args.dir))?;
    let json = |token: &Listed| {
        serde_json::json!({
            "name": token.name, "identity": format!("token/{}", token.name), "digest": token.digest,
            "expires": moment(token.expires),
        })
    };
    output::print_answer(
        args.output.output,
        || serde_json::json!({"tokens": tokens.iter().map(json).collect::<Vec<_>>()}),
        || tokens.iter().map(|token| token.name.clone()).collect(),
        || {
            let mut table = Table::new(["NAME", "IDENTITY", "DIGEST", "EXPIRES"]);
            for token in &tokens {
                let expires = moment(token.expires).unwrap_or_else(|| "never".to_owned());
                table.row([token.name.clone(), format!("token/{}", token.name), token.digest.clone(), expires]);
            }
            table.text()
        },
    )?;
    Ok(exit::OK)
}
