//! What is made from the definitions of the command line: completions of every shell, and manual pages.

use std::{collections::BTreeSet, fs};

use clap::{Command, CommandFactory as _};
use musterd::cli::Cli;

use super::musterd;
use crate::harness::scratch::Scratch;

/// Every command, as `serve` and `epoch-rotate`.
fn commands() -> BTreeSet<String> {
    fn collect(command: &Command, prefix: &str, found: &mut BTreeSet<String>) {
        for child in command.get_subcommands() {
            let name = format!("{prefix}{}", child.get_name());
            collect(child, &format!("{name}-"), found);
            found.insert(name);
        }
    }
    let mut found = BTreeSet::new();
    collect(&Cli::command(), "", &mut found);
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn each_shell_gets_completions_that_name_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = musterd(&["completions", shell]).await;
        assert_eq!((script.code, script.stderr.as_str()), (Some(0), ""), "{shell}");
        for name in commands().iter().flat_map(|name| name.split('-')) {
            assert!(script.stdout.contains(name), "{name} for {shell}");
        }
    }
    assert_eq!(musterd(&["completions", "tcsh"]).await.code, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_a_manual_page_for_every_command() {
    let page = musterd(&["man"]).await;
    assert_eq!((page.code, page.stderr.as_str()), (Some(0), ""));
    assert!(page.stdout.contains(".TH musterd 1") && page.stdout.contains("healthcheck"), "{}", page.stdout);
    let scratch = Scratch::in_memory();
    let dir = scratch.path().join("man1");
    let written = musterd(&["man", "--dir", dir.to_str().unwrap()]).await;
    assert_eq!((written.code, written.stdout.as_str()), (Some(0), ""), "{written:?}");
    let pages: BTreeSet<String> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let expected: BTreeSet<String> = commands().iter().map(|name| format!("musterd-{name}.1")).collect();
    let missing: Vec<_> = expected.difference(&pages).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(pages.len(), expected.len() + 1, "{pages:?}");
    let serve = fs::read_to_string(dir.join("musterd-serve.1")).unwrap();
    assert!(serve.contains("MUSTERD_GRPC_ADDR") && serve.contains("advertise"), "{serve}");

    let file = scratch.path().join("file");
    fs::write(&file, "precious").unwrap();
    let refused = musterd(&["man", "--dir", file.to_str().unwrap()]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.complaint().contains("give one that can be written to"), "{refused:?}");
}
