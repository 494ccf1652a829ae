//! `musterd run -- CMD`: registers CMD, beats while it runs, deregisters it, and otherwise is not there.
//!
//! With this, a program of any language takes part without a line of code. Three rules shape it:
//!
//! * **CMD comes first.** Once it runs, nothing the registry does or fails to do ends it; only `--on-fenced stop`, which
//!   the user asked for, may. Beats that fail are retried for ever, a lease that was lost is replaced by a new one.
//! * **Nothing half-made.** If the registry cannot be reached at the start, CMD is not started, and if CMD cannot be
//!   started, its registration is taken back.
//! * **Transparent.** CMD shares standard streams, terminal and process group with this process; signals are passed on;
//!   its exit code becomes ours, with the shell's 126, 127 and 128 + signal.
//!
//! The registration has to be there before CMD starts, when CMD has no process id yet; so it carries the id of this
//! process, the supervisor, whose death ends the beats. If this process is killed with SIGKILL, CMD goes on unregistered:
//! its lease ends within the TTL.
//!
//! `lease` keeps the lease, `signals` passes signals on; here is the order of things.

mod address;
mod lease;
#[cfg(test)]
mod scripted;
mod signals;

use std::{
    ffi::OsString,
    io,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};
use uuid::Uuid;

use self::{address::Address, lease::Keeper, signals::Signals};
use super::{
    client::{Client, ClientArgs, label_map, parse_duration, parse_label},
    exit::{self, Error},
    host,
    instances::{parse_instance_id, parse_uuid},
    output,
};
use crate::proto::v1::{InstanceStatus, RegisterRequest};

/// The shell's code for a command that was found but cannot be run.
const CANNOT_RUN: u8 = 126;
/// The shell's code for a command that was not found.
const NOT_A_COMMAND: u8 = 127;
/// What the shell adds to the number of the signal that ended a command.
const SIGNALLED: i32 = 128;

// At most 80 columns: what is broken by hand must not be broken again by a narrow terminal.
pub(super) const HELP: &str = "\
CMD is registered as STARTING before it starts, and set ALIVE once it has
started. The registered pid is that of `musterd run`. SIGTERM, SIGHUP, SIGINT,
SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to CMD.

CMD finds MUSTERD_INSTANCE_ID, MUSTERD_LOGICAL_ID, MUSTERD_EPOCH and
MUSTERD_LEASE_ID in its environment. They describe the first registration. If
the lease is lost while CMD runs, CMD is registered anew, with another lease.

Exit codes:
  that of CMD; 128+n if signal n ended it; 127 not found; 126 cannot be run
  3 if the registry cannot be reached at the start; CMD is then not started
  5 if --epoch is refused, or the epoch was rotated (with --on-fenced stop)

Examples:
  musterd run --logical-id web --ip 10.0.0.5 --port 8000 \\
    -- python3 -m http.server 8000
  musterd run --logical-id cognitive_organ_1 --ttl 10s --label zone=eu-1 \\
    --on-fenced stop -- ./organ --id 1";

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The name routers ask for, 1 to 253 bytes
    #[arg(long, value_name = "NAME")]
    logical_id: String,

    /// UUID of the instance [default: a random one]
    #[arg(long, value_name = "UUID", value_parser = parse_instance_id)]
    instance_id: Option<Uuid>,

    /// Name of the actor, for named actors
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    actor_name: String,

    /// Deployment name or base route it serves
    #[arg(long, value_name = "ROUTE", default_value = "", hide_default_value = true)]
    serve_route: String,

    /// Node it runs on [default: the host name]
    #[arg(long, value_name = "NODE")]
    node_id: Option<String>,

    /// Address CMD can be reached at, or none [default: that of this machine, as the daemon sees it]
    #[arg(long, value_name = "IP|none", value_parser = address::parse)]
    ip: Option<Address>,

    /// Port CMD can be reached at
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,

    /// How long the lease lives after its last beat, 2s to 300s [default: the server's, 15s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,

    /// A label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,

    /// Version of the software CMD is
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    version: String,

    /// Epoch CMD belongs to; refused with exit code 5 if it is not the current one [default: the current one]
    #[arg(long, value_name = "UUID", value_parser = parse_uuid)]
    epoch: Option<Uuid>,

    /// What to do when the epoch is rotated while CMD runs
    #[arg(long, value_name = "ACTION", value_enum, default_value_t)]
    on_fenced: OnFenced,

    /// The command to run, with its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// What to do when the epoch of the lease has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum OnFenced {
    /// Register CMD again, in the new epoch
    #[default]
    Register,
    /// Send SIGTERM to CMD, wait for its end, and exit with 5
    Stop,
}

impl RunArgs {
    fn request(&self) -> Result<RegisterRequest, Error> {
        let ttl = self.ttl.map(prost_types::Duration::try_from).transpose();
        Ok(RegisterRequest {
            // Chosen here, so that a registration whose answer was lost can be repeated and takes effect once.
            instance_id: self.instance_id.unwrap_or_else(Uuid::new_v4).to_string(),
            logical_id: self.logical_id.clone(),
            cluster_epoch: self.epoch.map(|epoch| epoch.to_string()).unwrap_or_default(),
            actor_name: self.actor_name.clone(),
            serve_route: self.serve_route.clone(),
            node_id: self.node_id.clone().unwrap_or_else(host::name),
            // Known once there is a connection: `address`.
            ip_address: String::new(),
            port: self.port.map(u32::from).unwrap_or_default(),
            pid: i64::from(std::process::id()),
            ttl: ttl.map_err(|_| Error::Usage("--ttl is too long; at most 300s".to_owned()))?,
            labels: label_map(&self.label)?,
            version: self.version.clone(),
            initial_status: InstanceStatus::Starting.into(),
        })
    }
}

pub(super) async fn run(args: RunArgs, client: &ClientArgs) -> Result<u8, Error> {
    let mut request = args.request()?;
    // Before anything is registered: from here on, no signal ends this process without its having taken leave.
    let mut signals = Signals::catch()?;
    let connected = tokio::select! {
        connected = Client::connect(client) => connected?,
        signal = signals.next() => return Ok(signalled(signal)),
    };
    let (ip, source) = (args.ip.unwrap_or_default(), connected.source());
    request.ip_address = ip.ip(source).map(|ip| ip.to_string()).unwrap_or_default();
    if let Some(note) = ip.note(&output::escape(&args.logical_id), source, args.port) {
        output::note(&note);
    }
    let mut keeper = Keeper::new(connected, request, args.on_fenced);
    tokio::select! {
        granted = keeper.open() => granted?,
        signal = signals.next() => {
            // The request may have been sent.
            keeper.leave().await;
            return Ok(signalled(signal));
        }
    }
    let mut child = match spawn(&args.command, &keeper) {
        Ok(child) => child,
        Err(error) => {
            let command = args.command.first().map(|name| name.to_string_lossy()).unwrap_or_default();
            output::note(&format!("cannot run {}: {error}", output::escape(&command)));
            keeper.leave().await;
            return Ok(if error.kind() == io::ErrorKind::NotFound { NOT_A_COMMAND } else { CANNOT_RUN });
        }
    };
    let (ended, fenced) = supervise(&mut child, &mut keeper, &mut signals).await;
    keeper.leave().await;
    Ok(if fenced { exit::PRECONDITION } else { exit_code(ended?) })
}

fn spawn(command: &[OsString], keeper: &Keeper) -> io::Result<Child> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    Command::new(program)
        .args(arguments)
        .envs(keeper.environment())
        .stdin(Stdio::inherit())
        .stdout(Stdio::inherit())
        .stderr(Stdio::inherit())
        // CMD comes first: our failure is not its end.
        .kill_on_drop(false)
        .spawn()
}

/// Beats and passes signals on until CMD ends. Also says whether CMD was told to stop because the epoch has passed.
async fn supervise(child: &mut Child, keeper: &mut Keeper, signals: &mut Signals) -> (io::Result<ExitStatus>, bool) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let send = |signal| {
        // The process is not yet waited for, so the id is still its own; it may have ended, which is no error here.
        let _ = pid.map(|pid| kill(pid, signal));
    };
    let mut fenced = false;
    let mut keeping = std::pin::pin!(keeper.keep());
    loop {
        tokio::select! {
            biased;
            ended = child.wait() => return (ended, fenced),
            signal = signals.next() => if signals::concerns_the_command(signal) { send(signal) },
            () = &mut keeping, if !fenced => {
                fenced = true;
                output::note("the epoch was rotated; stopping the command");
                send(Signal::SIGTERM);
            }
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| SIGNALLED + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::NEGATIVE)
}

fn signalled(signal: Signal) -> u8 {
    u8::try_from(SIGNALLED + signal as i32).unwrap_or(exit::NEGATIVE)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Only {
        #[command(flatten)]
        args: RunArgs,
    }

    fn parse(words: &[&str]) -> Result<RunArgs, clap::Error> {
        Only::try_parse_from(std::iter::once("run").chain(words.iter().copied())).map(|only| only.args)
    }

    #[test]
    fn arguments_of_the_command_are_left_alone() {
        let args = parse(&["--logical-id", "a", "--", "cmd", "--ttl", "x"]).expect("arguments");
        assert_eq!(args.command, ["cmd", "--ttl", "x"]);
        assert!(parse(&["--logical-id", "a"]).is_err());
        assert!(parse(&["--", "cmd"]).is_err());
        assert!(parse(&["--logical-id", "a", "--port", "0", "--", "cmd"]).is_err());
    }

    #[test]
    fn a_registration_is_repeatable_and_names_the_supervisor() {
        let args = parse(&["--logical-id", "a", "--ttl", "2500ms", "--label", "k=v", "--", "cmd"]).expect("arguments");
        let request = args.request().expect("request");
        assert!(Uuid::parse_str(&request.instance_id).is_ok());
        assert_eq!(request.pid, i64::from(std::process::id()));
        assert_eq!(request.initial_status(), InstanceStatus::Starting);
        assert_eq!(request.ttl.map(|ttl| (ttl.seconds, ttl.nanos)), Some((2, 500_000_000)));
        assert_eq!(request.node_id, host::name());
    }

    #[test]
    fn the_exit_code_is_that_of_the_command_or_the_shells() {
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
        assert_eq!(signalled(Signal::SIGTERM), 143);
    }
}
