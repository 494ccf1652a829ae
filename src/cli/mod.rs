//! The command line: what there is to say, and who answers it.
//!
//! One binary is daemon, client and supervisor. `serve` and `migrate` talk to PostgreSQL; all other commands are plain
//! gRPC clients, so an operator needs nothing but an address. Definitions live beside the code that carries them out, one
//! file per command; this file only lists them. What they share is in [`crate::command`]; how they print is in [`output`] and
//! [`crate::json`].

pub mod audit;
mod bench;
pub mod cert;
pub mod change;
pub mod check;
pub mod completions;
pub mod config;
pub mod database;
pub mod describe;
pub mod environment;
pub mod epoch;
pub mod expiry;
pub mod explain;
pub mod get;
pub mod healthcheck;
pub mod lease;
pub mod list;
pub mod migrate;
pub mod policy;
pub mod resolve;
pub mod run;
pub mod serve;
pub mod status;
pub mod token;
pub mod wait;
pub mod watch;
pub mod whoami;

use std::io;

use clap::{CommandFactory as _, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use change::Change;

use crate::{
    bench::{BenchArgs, HELP as BENCH_HELP},
    command::{
        client::ClientArgs,
        exit::{self, Error},
    },
    config::layered,
    terminal::{output, paint},
    upgrade,
};

/// The command line of `musterd`.
#[derive(Debug, Parser)]
#[command(name = "musterd", version, about, long_about = None, after_help = OVERVIEW)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    client: ClientArgs,

    /// Colour: on terminals unless NO_COLOR is set, always, or never
    #[arg(long, global = true, env = "MUSTERD_COLOR", value_name = "WHEN", value_enum, default_value_t)]
    color: paint::Color,
}

// Texts that are broken by hand have at most 80 columns: a narrow terminal must not break them again.
const OVERVIEW: &str = "\
Try it:
  musterd serve &
  musterd run --logical-id web --port 8000 -- python3 -m http.server 8000 &
  musterd wait web
  musterd resolve web

Exit codes:
  0   ok
  1   a negative answer, or an error of the server
  2   usage: a flag or argument is wrong
  3   the registry cannot be reached
  4   not found
  5   a precondition does not hold, for example a stale epoch
  6   the daemon does not know the caller, or refuses it this right
  78  bad configuration

Every flag of serve, and --addr, --timeout and --color, can also be given as an
environment variable MUSTERD_<FLAG>; those of serve also in a TOML file
(--config). The flag wins over the variable, the variable over the file.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<layered::Layered<serve::ServeArgs>>),
    /// Show or check the configuration of serve, without starting anything
    #[command(subcommand, after_help = config::EXAMPLES)]
    Config(config::ConfigCommand),
    /// Set up the protection of a daemon's ports
    #[command(subcommand)]
    Security(cert::SecurityCommand),
    /// Make, renew and show certificates
    #[command(subcommand, after_help = cert::EXAMPLES)]
    Cert(cert::CertCommand),
    /// Make, list and revoke tokens
    #[command(subcommand, after_help = token::EXAMPLES)]
    Token(token::TokenCommand),
    /// Check a policy, or test what it allows
    #[command(subcommand, after_help = policy::EXAMPLES)]
    Policy(policy::PolicyCommand),
    /// Bring the schema of the database up to date, or look at it
    #[command(subcommand, after_help = MIGRATE_EXAMPLES)]
    Migrate(migrate::MigrateCommand),
    /// Look after the private PostgreSQL of serve
    #[command(subcommand)]
    Local(upgrade::LocalCommand),
    /// Print a live instance of each logical id; exit with 4 if one has none
    #[command(after_help = resolve::EXAMPLES)]
    Resolve(Box<resolve::ResolveArgs>),
    /// List instances
    #[command(after_help = LIST_EXAMPLES)]
    List(list::ListArgs),
    /// Print one instance, dead or alive
    #[command(after_help = get::EXAMPLES)]
    Get(get::GetArgs),
    /// Tell in words all that is known of an instance or a name
    #[command(after_help = describe::EXAMPLES)]
    Describe(describe::DescribeArgs),
    /// Show why Resolve returns one instance of a name and not the others
    #[command(after_help = explain::EXAMPLES)]
    Explain(explain::ExplainArgs),
    /// Wait until a name is live, gone, or has so many instances
    #[command(after_help = wait::HELP)]
    Wait(wait::WaitArgs),
    /// Print instances and then every change among them, until told to end
    #[command(after_help = watch::HELP)]
    Watch(Box<watch::WatchArgs>),
    /// Show registry health in one screen; exit with 1 if it is critical
    #[command(after_help = status::HELP)]
    Status(status::StatusArgs),
    /// Diagnose the path from here to the database and suggest a fix for each problem
    #[command(after_help = check::HELP)]
    Check(Box<check::CheckArgs>),
    /// Show which identity the daemon knows the caller by, and what it may do
    #[command(name = "whoami", after_help = whoami::EXAMPLES)]
    WhoAmI(whoami::WhoAmIArgs),
    /// Exit with 0 if the local daemon is ready (container probe)
    #[command(after_help = healthcheck::HELP)]
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Show, rotate or list the epochs of the cluster
    #[command(subcommand)]
    Epoch(epoch::EpochCommand),
    /// List the decisions on record, the newest first: rotations, holds, denials and the like
    #[command(after_help = audit::EXAMPLES)]
    Audit(audit::AuditArgs),
    /// Pause expiry: no lease expires for missed beats
    #[command(after_help = expiry::HOLD_EXAMPLES)]
    Hold(expiry::HoldArgs),
    /// Resume expiry: end a hold and lift the expiry rate limit for a while
    Release(expiry::ReleaseArgs),
    /// Drain instances: they keep their leases and get no new traffic
    #[command(after_help = change::DRAIN_EXAMPLES)]
    Drain(change::StatusArgs),
    /// Return draining instances to Resolve
    Undrain(change::StatusArgs),
    /// End the leases of instances, as the instances themselves would
    #[command(after_help = change::DEREGISTER_EXAMPLES)]
    Deregister(change::ChangeArgs),
    /// Declare one instance dead, whatever hold and brake say
    #[command(after_help = expiry::EXPIRE_EXAMPLES)]
    Expire(expiry::ExpireArgs),
    /// Say whether a lease is alive; exit with 4 if it is unknown, with 5 if it has ended
    #[command(after_help = lease::EXAMPLES)]
    CheckLease(lease::CheckLeaseArgs),
    /// Run a command and keep it registered for as long as it runs
    #[command(after_help = run::HELP)]
    Run(Box<run::RunArgs>),
    /// Put load on a daemon, and say how it bore it
    #[command(after_help = BENCH_HELP)]
    Bench(Box<BenchArgs>),
    /// Print the completions of a shell
    #[command(after_help = completions::COMPLETIONS_EXAMPLES)]
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write one for each command
    #[command(after_help = completions::MAN_EXAMPLES)]
    Man(completions::ManArgs),
}

const SERVE_EXAMPLES: &str = "\
Examples:
  # On a laptop: with a private PostgreSQL, reachable from this machine only
  musterd serve
  # On a cluster: several daemons share one database
  export MUSTERD_DATABASE_URL=postgres://musterd:secret@db/registry
  musterd security init /etc/musterd/tls --name registry-1.example
  musterd serve --grpc-addr 0.0.0.0:7717 --http-addr 0.0.0.0:7718 \
    --tls-cert /etc/musterd/tls/server.pem --tls-key /etc/musterd/tls/server.key \
    --insecure-no-auth";

const MIGRATE_EXAMPLES: &str = "\
Examples:
  export MUSTERD_DATABASE_URL=postgres://owner:secret@db/registry
  musterd migrate status --exit-code || musterd migrate up

serve migrates at its start by itself, unless it is told --no-migrate.";

const LIST_EXAMPLES: &str = "\
Examples:
  musterd list
  musterd list --prefix cognitive_organ_ --status alive --label zone=eu-1
  musterd list --all-statuses -o jsonl | jq -c '{logicalId, status, death}'";

impl Command {
    /// For a command that goes on until something happens: its exit code when its reader has gone before that. `None` for
    /// one that ends by itself, and notices a closed pipe when it prints.
    fn without_reader(&self) -> Option<u8> {
        match self {
            Self::Watch(_) => Some(exit::OK),
            Self::List(args) if args.repeats() => Some(exit::OK),
            Self::Status(args) if args.repeats() => Some(exit::OK),
            // 0 would say that what was waited for is so.
            Self::Wait(_) => Some(exit::NEGATIVE),
            _ => None,
        }
    }
}

impl Cli {
    /// Builds the runtime the command needs: all cores for the daemon, one thread for a client unless it is a benchmark.
    ///
    /// # Errors
    ///
    /// The operating system refuses threads or descriptors.
    pub fn runtime(&self) -> io::Result<Runtime> {
        let mut builder = match &self.command {
            Command::Serve(_) => Builder::new_multi_thread(),
            Command::Bench(args) if args.threads() > 1 => {
                let mut builder = Builder::new_multi_thread();
                builder.worker_threads(args.threads());
                builder
            }
            _ => Builder::new_current_thread(),
        };
        builder.enable_all().build()
    }

    /// Runs the command and returns the exit code of the process.
    ///
    /// # Errors
    ///
    /// Whatever kept the command from its end; [`exit`] maps each to an exit code.
    pub async fn run(self) -> Result<u8, Error> {
        paint::set(self.color);
        let of_run = matches!(self.command, Command::Run(_));
        let outcome = match self.command.without_reader() {
            None => self.obey().await,
            Some(without_reader) => tokio::select! {
                outcome = self.obey() => outcome,
                () = output::reader_gone() => Ok(without_reader),
            },
        };
        outcome.map_err(|error| error.in_flags(of_run))
    }

    async fn obey(self) -> Result<u8, Error> {
        let client = &self.client;
        match self.command {
            Command::Serve(args) => serve::run(*args).await,
            Command::Config(command) => config::run(command),
            Command::Security(command) => cert::security(command),
            Command::Cert(command) => cert::run(command),
            Command::Token(command) => token::run(command),
            Command::Policy(command) => policy::run(command),
            Command::Migrate(command) => Box::pin(migrate::run(command)).await,
            Command::Local(command) => Box::pin(upgrade::run(command)).await.map(|()| exit::OK).map_err(Error::from),
            Command::Resolve(args) => resolve::run(*args, client).await,
            Command::List(args) => list::run(args, client).await,
            Command::Get(args) => get::run(args, client).await,
            Command::Describe(args) => describe::run(args, client).await,
            Command::Explain(args) => explain::run(args, client).await,
            Command::Wait(args) => wait::run(args, client).await,
            Command::Status(args) => status::run(args, client).await,
            Command::Check(args) => Box::pin(check::run(*args, client)).await,
            Command::WhoAmI(args) => whoami::run(args, client).await,
            Command::Healthcheck(args) => healthcheck::run(args, client).await,
            Command::Drain(args) => change::run_status(Change::Drain, args, client).await,
            Command::Undrain(args) => change::run_status(Change::Undrain, args, client).await,
            Command::Deregister(args) => change::run(Change::Deregister, "", args, client).await,
            Command::Completions(args) => completions::completions(&args, Cli::command()),
            Command::Man(args) => completions::man(&args, Cli::command()),
            Command::Watch(args) => watch::run(*args, client).await,
            Command::Epoch(command) => epoch::run(command, client).await,
            Command::Audit(args) => audit::run(args, client).await,
            Command::Hold(args) => expiry::hold(args, client).await,
            Command::Release(args) => expiry::release(args, client).await,
            Command::Expire(args) => expiry::expire(args, client).await,
            Command::CheckLease(args) => lease::check(args, client).await,
            Command::Run(args) => Box::pin(run::run(*args, client)).await,
            Command::Bench(args) => Box::pin(bench::run(*args, client)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::flags;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn client_flags_may_stand_before_or_after_the_command() {
        for words in [["musterd", "--addr", "h:1", "resolve", "x"], ["musterd", "resolve", "x", "--addr", "h:1"]] {
            let cli = Cli::try_parse_from(words).expect("arguments");
            assert_eq!(cli.client.addr.to_string(), "http://h:1");
        }
    }

    #[test]
    fn every_serve_flag_has_its_environment_variable() {
        let mut command = Cli::command();
        command.build();
        let serve = command.find_subcommand("serve").expect("serve");
        for arg in serve.get_arguments() {
            let Some(long) = arg.get_long().filter(|long| !matches!(*long, "help" | "version")) else { continue };
            let expected = format!("MUSTERD_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(expected.as_str()));
        }
    }

    #[test]
    fn each_flag_that_a_field_stands_for_exists() {
        let mut command = Cli::command();
        command.build();
        let run = command.find_subcommand("run").expect("run").clone();
        let words = |command: &clap::Command| -> Vec<String> {
            let own = command.get_arguments().flat_map(|arg| {
                let name = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
                [arg.get_long().map(|long| format!("--{long}")), name]
            });
            own.flatten().collect()
        };
        let nested = |command: &clap::Command| command.get_subcommands().cloned().collect::<Vec<_>>();
        let all: Vec<_> = nested(&command).iter().flat_map(|one| [vec![one.clone()], nested(one)].concat()).collect();
        let others: Vec<String> = all.iter().filter(|one| one.get_name() != "run").flat_map(words).collect();
        for field in ["logical_id", "instance_id", "node_id", "actor_name", "ip_address", "ttl", "labels", "version"] {
            assert!(words(&run).contains(&flags::flag(field, true)), "{field}");
        }
        for field in [
            "logical_id",
            "instance_id",
            "node_id",
            "logical_id_prefix",
            "choice.key",
            "choice.near_node_id",
            "duration",
            "reason",
            "expected_epoch",
            "new_epoch",
            "alive_at",
            "choice.excluded_instance_ids",
            "choice.policy",
        ] {
            assert!(others.contains(&flags::flag(field, false)), "{field}: {}", flags::flag(field, false));
        }
    }
}
