//! `musterd policy`: whether a policy file is valid, and what it allows, before a daemon takes it.

use std::path::PathBuf;

use crate::{
    access::{Identity, Verb, read_policy},
    command::exit::{self, Error},
    terminal::output,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  musterd policy check tls/policy.toml
  musterd policy test tls/policy.toml --as token/router --may resolve --on svc-a";

/// Subcommands of `policy`.
#[derive(Debug, clap::Subcommand)]
pub enum PolicyCommand {
    /// Check a policy file
    Check(PolicyFile),
    /// Exit 0 if a policy allows an identity a verb on a logical id, 1 if it does not
    Test(TestArgs),
}

/// Arguments of `policy check`.
#[derive(Debug, clap::Args)]
pub struct PolicyFile {
    /// Policy in TOML form
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Arguments of `policy test`.
#[derive(Debug, clap::Args)]
pub struct TestArgs {
    #[command(flatten)]
    policy: PolicyFile,

    /// Identity of the caller, such as token/NAME, cert/NAME, a SPIFFE URI, or anonymous
    #[arg(long = "as", value_name = "IDENTITY")]
    identity: Identity,

    /// What it wants to do: register, beat, resolve, read, operate, cluster, metrics
    #[arg(long = "may", value_name = "VERB")]
    verb: Verb,

    /// On which logical id; metrics needs none
    #[arg(long = "on", value_name = "NAME")]
    name: Option<String>,
}

pub(super) fn run(command: PolicyCommand) -> Result<u8, Error> {
    match command {
        PolicyCommand::Check(PolicyFile { file }) => {
            let policy = read_policy(&file)?;
            output::print_text(&format!("{} is valid: {policy}\n", file.display()))?;
            Ok(exit::OK)
        }
        PolicyCommand::Test(args) => test(&args),
    }
}

fn test(args: &TestArgs) -> Result<u8, Error> {
    let (policy, TestArgs { identity, verb, name, .. }) = (read_policy(&args.policy.file)?, args);
    let name = match name {
        None if verb.has_names() => {
            return Err(Error::Usage(format!("{verb} is about a logical id; give it with --on")));
        }
        name => name.as_deref().unwrap_or_default(),
    };
    let file = args.policy.file.display();
    match policy.allows(identity, *verb, name) {
        Some(rule) => {
            output::print_text(&format!("allowed by the rule at {file}:{}\n", rule.line))?;
            Ok(exit::OK)
        }
        None => {
            output::print_text("refused: no rule grants it\n")?;
            Ok(exit::NEGATIVE)
        }
    }
}
