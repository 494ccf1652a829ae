//! The `musterd` program: parse, run, turn the outcome into an exit code. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use musterd::{
    cli::{Cli, environment},
    command::exit,
    supervise,
};

/// A call allocates some forty times; with the allocator of the C library it takes a seventh more processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // First: a process that is held for a command does nothing else.
    if let Some(code) = supervise::held::intercept() {
        return code;
    }
    if let Err(error) = environment::clean() {
        return exit::finish(Err(exit::Error::Io(error)));
    }
    let cli = Cli::parse();
    let outcome = cli.runtime().map_err(exit::Error::Runtime).and_then(|runtime| {
        let outcome = runtime.block_on(cli.run());
        // Nothing that still blocks a thread may delay the exit.
        runtime.shutdown_background();
        outcome
    });
    exit::finish(outcome)
}
