//! `musterd policy`: whether a policy file is valid, and what it allows, before a daemon takes it.

use std::{net::IpAddr, path::PathBuf};

use crate::{
    access::{Identity, Kind, Verb, read_policy, special_address},
    command::exit::{self, Error},
    terminal::output,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  musterd policy check tls/policy.toml
  musterd policy test tls/policy.toml --as token/router --may resolve --on svc-a
  musterd policy test tls/policy.toml --as token/actor --may register --on svc-a --address 10.0.0.9 --from 10.0.0.7";

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

    /// For register: the address that is registered
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,

    /// The address that the caller calls from
    #[arg(long, value_name = "IP", requires = "address")]
    from: Option<IpAddr>,
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
    if identity.kind() == Kind::Local {
        output::print_text("allowed: local may do everything\n")?;
        return Ok(exit::OK);
    }
    let rule = match args.address {
        Some(address) if *verb == Verb::Register => policy.allows_address(identity, name, address, args.from),
        Some(_) => return Err(Error::Usage(format!("{verb} is about no address; leave out --address"))),
        None => policy.allows(identity, *verb, name),
    };
    match rule {
        Some(rule) => {
            output::print_text(&format!("allowed by the rule at {file}:{}\n", rule.line))?;
            Ok(exit::OK)
        }
        None => {
            let special = args.address.and_then(special_address);
            output::print_text(&match special {
                Some(kind) => format!("refused: {kind} address means another machine to each reader\n"),
                None => "refused: no rule grants it\n".to_owned(),
            })?;
            Ok(exit::NEGATIVE)
        }
    }
}
