//! `musterd run -- CMD`: registers CMD, beats while it runs, deregisters it, and otherwise is not there.
//!
//! With this, a program of any language takes part without a line of code. Four rules shape it:
//!
//! * **CMD comes first.** Nothing the registry does or fails to do ends it; only `--on-fenced stop`, or an epoch that the
//!   user named and that is not the current one, may. If the registry cannot be reached, CMD starts without a registration.
//!   Beats and registrations that fail are retried for ever, a lease that was lost is replaced by a new one.
//! * **Nothing half-made.** If the registry refuses the registration, CMD is not started, and if CMD cannot be started,
//!   its registration is taken back.
//! * **Transparent.** CMD shares standard streams, terminal and process group with this process; signals are passed on;
//!   its exit code becomes ours, with the shell's 126, 127 and 128 + signal.
//! * **One fate.** If this process is killed, CMD is killed too (on Linux), because nothing would renew its lease; unless
//!   `--outlive` is given. As the first process of a container, this process waits for orphans too.
//!
//! The lease is kept by `musterd-client`; `lease` says what became of it. CMD's process is the concern of the room
//! `supervise`; here is the order of things.

mod address;
mod lease;

use std::{ffi::OsString, io, process::ExitStatus, time::Duration};

use musterd_client::{OnLost, Register, Status};
use nix::{sys::signal::Signal, unistd::Pid};
use uuid::Uuid;

use self::{address::Address, lease::Lease};

use crate::{
    command::{
        client::{ClientArgs, label_map, parse_label},
        exit::{self, Error},
        host,
        instances::{parse_instance_id, parse_uuid},
    },
    supervise::{
        child::Supervised,
        signals::{self, Signals},
    },
    telemetry,
    terminal::{args::parse_duration, output},
};

/// The shell's code for a command that was found but cannot be run.
const CANNOT_RUN: u8 = 126;
/// The shell's code for a command that was not found.
const NOT_A_COMMAND: u8 = 127;
/// What the shell adds to the number of the signal that ended a command.
const SIGNALLED: i32 = 128;

// At most 80 columns: what is broken by hand must not be broken again by a narrow terminal.
pub(super) const HELP: &str = "\
CMD is registered as STARTING before it starts, with its process id, and set
ALIVE once it has started. If the registry cannot be reached within --timeout
(or --wait, if given), CMD starts without a registration and is registered as
soon as possible.

CMD finds MUSTERD_INSTANCE_ID, MUSTERD_LOGICAL_ID, MUSTERD_EPOCH and
MUSTERD_LEASE_ID in its environment. They describe the first registration; the
last two are missing if CMD started without one. If the lease is lost while CMD
runs, CMD is registered again, with another lease.

SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to CMD. If
`musterd run` is killed, CMD is killed too (on Linux), unless --outlive is given.
As the first process of a container, `musterd run` reaps orphaned processes.

Exit codes:
  that of CMD; 128+n if signal n ended it; 127 not found; 126 cannot be run
  2 or 5 if the registry refuses the registration; CMD is then not started
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

    /// Let CMD go on, without a registration, if musterd run is killed
    #[arg(long)]
    outlive: bool,

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
    fn registration(&self, pid: Pid) -> Result<Register, Error> {
        let on_lost = match self.on_fenced {
            OnFenced::Register => OnLost::RejoinAnyEpoch,
            OnFenced::Stop => OnLost::RejoinSameEpoch,
        };
        let mut register = Register::new(&self.logical_id)
            .actor_name(&self.actor_name)
            .serve_route(&self.serve_route)
            .node(self.node_id.clone().unwrap_or_else(host::name))
            .version(&self.version)
            .pid(u32::try_from(pid.as_raw()).unwrap_or_default())
            .status(Status::Starting)
            .on_lost(on_lost)
            .until_told();
        register = match self.ip.unwrap_or_default() {
            Address::Source => register.ip_of_connection(),
            Address::None => register,
            Address::Given(ip) => register.ip(ip),
        };
        register = self.instance_id.into_iter().fold(register, Register::instance_id);
        register = self.epoch.into_iter().fold(register, Register::cluster_epoch);
        register = self.port.into_iter().fold(register, Register::port);
        register = self.ttl.into_iter().fold(register, Register::ttl);
        Ok(label_map(&self.label)?.into_iter().fold(register, |register, (key, value)| register.label(key, value)))
    }
}

pub(super) async fn run(args: RunArgs, client: &ClientArgs) -> Result<u8, Error> {
    // Before anything is registered: from here on, no signal ends this process without its having taken leave.
    let mut signals = Signals::catch()?;
    // A reader of standard error that stalls must not keep the beats from being sent.
    telemetry::decouple()?;
    let mut command = Supervised::hold(&args.command, args.outlive)?;
    let registration = client.client()?.keep(args.registration(command.pid())?)?;
    let mut lease = Lease::new(registration, &args.logical_id, args.ip.unwrap_or_default(), args.port);
    tokio::select! {
        opened = lease.open(client.wait.unwrap_or(client.timeout), client.timeout) => if let Err(error) = opened {
            lease.leave().await;
            return Err(error);
        },
        signal = signals.next() => {
            // The request may have been sent.
            lease.leave().await;
            return Ok(signalled(signal));
        }
        // A key press on the terminal reaches the held process as well.
        ended = command.ended() => {
            lease.leave().await;
            return Ok(exit_code(ended?));
        }
    }
    if let Err(error) = command.release(&lease.environment()).await {
        let name = args.command.first().map(|name| name.to_string_lossy()).unwrap_or_default();
        output::note(&format!("cannot run {}: {error}", output::escape(&name)));
        lease.leave().await;
        return Ok(if error.kind() == io::ErrorKind::NotFound { NOT_A_COMMAND } else { CANNOT_RUN });
    }
    let (ended, fenced) = supervise(&mut command, &mut lease, &mut signals).await;
    lease.leave().await;
    Ok(if fenced { exit::PRECONDITION } else { exit_code(ended?) })
}

/// Passes signals on until CMD ends. Also says whether CMD was told to stop because the epoch has passed.
async fn supervise(
    command: &mut Supervised,
    lease: &mut Lease,
    signals: &mut Signals,
) -> (io::Result<ExitStatus>, bool) {
    let mut fenced = false;
    let mut following = std::pin::pin!(lease.follow());
    loop {
        tokio::select! {
            biased;
            ended = command.ended() => return (ended, fenced),
            signal = signals.next() => if signals::concerns_the_command(signal) { command.signal(signal) },
            () = &mut following, if !fenced => {
                fenced = true;
                output::note("the epoch was rotated; stopping the command");
                command.signal(Signal::SIGTERM);
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

    use super::*;
    use crate::terminal::args;

    fn parse(words: &[&str]) -> Result<RunArgs, clap::Error> {
        args::parse(std::iter::once("run").chain(words.iter().copied()))
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
    fn the_exit_code_is_that_of_the_command_or_the_shells() {
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
        assert_eq!(signalled(Signal::SIGTERM), 143);
    }
}
