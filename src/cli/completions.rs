//! `musterd completions SHELL` and `musterd man`: what shells and `man` want to know, made from the definitions
//! themselves, so that it is never out of date.

use std::{fs, path::PathBuf};

use clap::Command;
use clap_complete::Shell;

use crate::{
    command::exit::{self, Error},
    terminal::output,
};

/// The name of the program.
const NAME: &str = "musterd";

pub(super) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  musterd completions bash > ~/.local/share/bash-completion/completions/musterd
  musterd completions zsh > ~/.zfunc/_musterd
  musterd completions fish > ~/.config/fish/completions/musterd.fish";

pub(super) const MAN_EXAMPLES: &str = "\
Examples:
  musterd man | man -l -
  musterd man --dir ~/.local/share/man/man1 && man musterd-serve";

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Write a page for each command into this directory, which is made if it is not there [default: print one page]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// `definitions` is the whole command line.
pub(super) fn completions(args: &CompletionsArgs, mut definitions: Command) -> Result<u8, Error> {
    // Into memory first: the generator takes a closed pipe for a bug.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut definitions, NAME, &mut script);
    output::print(|out| out.write_all(&script))?;
    Ok(exit::OK)
}

/// `definitions` is the whole command line.
pub(super) fn man(args: &ManArgs, definitions: Command) -> Result<u8, Error> {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(definitions).render(&mut page)?;
        output::print(|out| out.write_all(&page))?;
        return Ok(exit::OK);
    };
    let written = fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(definitions, dir));
    let cannot = |error| Error::Usage(format!("--dir {}: {error}; give one that can be written to", dir.display()));
    written.map_err(cannot)?;
    output::note(&format!("a page for each command is in {}", dir.display()));
    Ok(exit::OK)
}
