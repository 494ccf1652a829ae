//! The fast profile (`tests/run.sh --fast`) leaves out what `tests/slow.txt` names, and nothing by accident.
//!
//! cargo test takes `--skip` as a part of a name. An entry that names no test is a leftover of a renamed one, and an entry
//! that names tests of another module skips more than its reason covers.

use std::{collections::BTreeSet, process::Command};

const LIST: &str = include_str!("../slow.txt");

/// The entries: the beginning of a name, and the reason.
fn entries(list: &str) -> Vec<(&str, &str)> {
    let lines = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').map_or((line, ""), |(name, reason)| (name, reason.trim()))).collect()
}

/// The names of all tests of this binary.
fn tests() -> Vec<String> {
    let listed = Command::new(std::env::current_exe().unwrap()).arg("--list").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    listed.lines().filter_map(|line| line.strip_suffix(": test").map(str::to_owned)).collect()
}

/// Complaints about entries: without a reason, twice, without a test, or with tests that do not begin like it.
fn complaints(entries: &[(&str, &str)], tests: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (name, reason) in entries {
        let skipped: Vec<_> = tests.iter().filter(|test| test.contains(name)).collect();
        if reason.split_whitespace().count() < 3 {
            found.push(format!("{name} has no reason"));
        }
        if !seen.insert(name) {
            found.push(format!("{name} is listed twice"));
        }
        if skipped.is_empty() {
            found.push(format!("{name} names no test"));
        }
        found.extend(skipped.iter().filter(|test| !test.starts_with(name)).map(|test| format!("{name} skips {test}")));
    }
    found
}

#[test]
fn slow_list_names_existing_tests_with_reasons() {
    let tests = tests();
    assert!(tests.len() > 300, "only {} tests", tests.len());
    assert_eq!(complaints(&entries(LIST), &tests), [""; 0]);
}

#[test]
fn slow_list_entry_without_test_or_reason_is_refused() {
    let tests = ["a::one", "b::a::one"].map(str::to_owned);
    let list = "# why\n\na::one  takes a minute alone\nc::  takes a minute alone\na::one\n";
    assert_eq!(
        complaints(&entries(list), &tests),
        [
            "a::one skips b::a::one",
            "c:: names no test",
            "a::one has no reason",
            "a::one is listed twice",
            "a::one skips b::a::one"
        ]
    );
}
