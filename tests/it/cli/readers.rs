//! Readers of what is printed: a reader that goes away, a terminal that shows wide characters.

use std::{process::Stdio, time::Duration};

use tokio::io::AsyncReadExt as _;

use super::BOUND;
use crate::harness::{
    actor::{Caller, alive},
    daemon::{Daemon, program},
    postgres::TestDatabase,
};

#[tokio::test(flavor = "multi_thread")]
async fn following_commands_end_when_their_reader_has_gone() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    Caller::of(&daemon).register(alive("web", Duration::from_secs(300))).await.unwrap();
    for (command, prints_first, code) in [
        (&["watch"][..], true, 0),
        (&["watch", "-o", "jsonl"], true, 0),
        (&["list", "--watch=1h"], true, 0),
        (&["status", "--watch=1h"], true, 0),
        (&["wait", "web", "--for", "gone", "--timeout", "1h"], false, 1),
    ] {
        let mut child = tokio::process::Command::from(program());
        child.args(command).args(["--addr", &daemon.grpc_addr]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.kill_on_drop(true).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        if prints_first {
            // All that there is: from here on nothing is written until something changes.
            let mut seen = String::new();
            while !(seen.contains("SYNCED") || command[0] != "watch" && seen.ends_with('\n')) {
                let mut bytes = [0; 4096];
                let count = tokio::time::timeout(BOUND, stdout.read(&mut bytes)).await.unwrap().unwrap();
                assert!(count > 0, "{command:?}: {seen}");
                seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        }
        drop(stdout);
        let ended = tokio::time::timeout(BOUND, child.wait_with_output()).await;
        let ended = ended.unwrap_or_else(|_| panic!("{command:?} goes on without a reader")).unwrap();
        assert_eq!(ended.status.code(), Some(code), "{command:?}: {}", String::from_utf8_lossy(&ended.stderr));
        assert!(!String::from_utf8_lossy(&ended.stderr).contains("pipe"), "{command:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_aligned_for_names_of_any_characters() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    for name in ["plain-service", "推荐服务", "🚀🚀", "e\u{301}tude"] {
        caller.register(alive(name, Duration::from_secs(300))).await.unwrap();
    }
    // Two columns for a wide character, none for a combining one.
    let columns = |text: &str| -> usize {
        let of = |c: char| match c {
            '\u{301}' => 0,
            '推' | '荐' | '服' | '务' | '🚀' => 2,
            _ => 1,
        };
        text.chars().map(of).sum()
    };
    for command in ["list", "watch"] {
        let mut child = tokio::process::Command::from(program());
        child.arg(command).args(["--addr", &daemon.grpc_addr]);
        if command == "watch" {
            child.arg("--until-synced");
        }
        let output = tokio::time::timeout(BOUND, child.output()).await.unwrap().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let begins = |line: &str| {
            let uuid = line.split("  ").map(str::trim).find(|cell| uuid::Uuid::try_parse(cell).is_ok())?;
            Some(columns(&line[..line.find(uuid)?]))
        };
        let begins: Vec<usize> = text.lines().filter_map(begins).collect();
        assert!(begins.len() == 4 && begins.windows(2).all(|pair| pair[0] == pair[1]), "{begins:?} in\n{text}");
    }
}
