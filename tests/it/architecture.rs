//! The laws of the source tree, checked by reading it: which room may import which, how long a file may be,
//! what never appears.
//!
//! A law that only a reviewer knows is broken within a month. Each law here is one table or one number; to break it on
//! purpose is to change the table, in a diff that says so. Functions over 70 lines, `unwrap` behind a type and the like
//! are clippy's (`Cargo.toml`, `clippy.toml`). Each check is a function from text to complaints, and shown to complain.

mod circles;
mod code;
mod dependencies;
mod tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use code::{Finding, What};
use tables::{CRATES_STAY_IN, MAY_IMPORT, NEVER, TESTS_MAY_IMPORT};

/// The longest file.
const MAX_LINES: usize = 400;

/// The largest room, a top-level module of the daemon: beyond this it holds two things.
const ROOM_MAX_LINES: usize = 3_000;
const ROOM_MAX_FILES: usize = 25;

/// The command line is many small commands, a file each, which do not use each other.
const CLI_MAX_LINES: usize = 6_500;
const CLI_MAX_FILES: usize = 45;

/// Where SeedCore's session lock is kept as it was, for databases that have it.
const SESSION_LOCKS_STAY_IN: &str = "migrations/012_runtime_registry_functions.sql";

/// Where tests make generated clients: the harness of the wire, and callers with tokens. All other tests use these or
/// `musterd-client`, so that there is one dialect for calls and one for the wire.
const GENERATED_CLIENTS_IN: &[&str] = &["tests/it/harness/wire.rs", "tests/it/jwt.rs", "tests/it/rights/mod.rs"];

fn table<'a>(table: &[(&str, &'a [&'a str])], key: &str) -> &'a [&'a str] {
    table.iter().find(|(name, _)| *name == key).map_or(&[], |(_, allowed)| allowed)
}

/// The layer of a file of `src`, and how deep its module lies in the crate.
fn place(path: &str) -> (&str, usize) {
    let module = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    match module {
        "lib" => ("lib", 0),
        "main" => ("main", 0),
        _ => (module.split('/').next().unwrap_or(module), module.split('/').count()),
    }
}

/// Complaints about imports that the tables do not allow.
fn imports(path: &str, source: &str, is_test_file: bool) -> Vec<String> {
    let (layer, depth) = place(path);
    let complain = |finding: Finding| {
        let in_test = finding.in_test || is_test_file;
        let allowed = |module: &str| {
            module == layer
                || table(MAY_IMPORT, layer).contains(&module)
                || in_test && table(TESTS_MAY_IMPORT, layer).contains(&module)
        };
        match finding.what {
            What::Module(module) if layer != "lib" && !allowed(&module) => {
                Some(format!("{path}:{}: {layer} must not import {module}", finding.line))
            }
            What::Head(name) => table_of_crate(&name)
                .filter(|layers| !layers.contains(&layer))
                .map(|layers| format!("{path}:{}: {name} stays in {}", finding.line, layers.join(", "))),
            _ => None,
        }
    };
    code::read(source, depth).into_iter().filter_map(complain).collect()
}

fn table_of_crate(name: &str) -> Option<&'static [&'static str]> {
    CRATES_STAY_IN.iter().find(|(crate_name, _)| *crate_name == name).map(|(_, layers)| *layers)
}

/// Complaints about calls that end the process in code that must not.
fn panics(path: &str, source: &str) -> Vec<String> {
    let complain = |finding: Finding| match finding.what {
        What::Method(name) if matches!(name.as_str(), "unwrap" | "expect" | "unwrap_err" | "expect_err") => {
            Some(format!("{path}:{}: .{name}() outside tests", finding.line))
        }
        What::Macro(name) if matches!(name.as_str(), "panic" | "todo" | "unimplemented" | "unreachable") => {
            Some(format!("{path}:{}: {name}! outside tests", finding.line))
        }
        _ => None,
    };
    code::read(source, 0).into_iter().filter(|finding| !finding.in_test).filter_map(complain).collect()
}

/// Complaints about the form of a file: its length, and its opening essay.
fn form(path: &str, source: &str) -> Vec<String> {
    let lines = source.lines().count();
    let mut complaints = Vec::new();
    if lines > MAX_LINES {
        complaints.push(format!("{path}: {lines} lines, at most {MAX_LINES} are allowed; split it by what it does"));
    }
    if path.ends_with(".rs") && !source.starts_with("//! ") {
        complaints.push(format!("{path}: does not open with `//!` and what the file is for"));
    }
    complaints
}

/// Complaints about locks that outlive their transaction: on a pooled connection they leak.
fn session_locks(path: &str, source: &str) -> Vec<String> {
    let text = source.to_lowercase();
    ["pg_advisory_lock", "pg_try_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock_shared"]
        .iter()
        .filter(|function| text.contains(&format!("{function}(")) && path != SESSION_LOCKS_STAY_IN)
        .map(|function| format!("{path}: {function}() is a session lock; use pg_advisory_xact_lock()"))
        .collect()
}

// ---- The tree ----

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files under a directory of the repository with one of these endings, as paths from its root, with their text.
fn files(directory: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut directories = vec![root().join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == ending) {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "no .{ending} files in {directory}: is the check looking in the wrong place?");
    found.sort();
    found
}

/// The files of `src` that are test code as a whole, because `#[cfg(test)] mod name;` declares them.
fn test_files(sources: &[(String, String)]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (path, source) in sources {
        let directory = path.trim_end_matches("/mod.rs").trim_end_matches(".rs");
        for finding in code::read(source, 0) {
            if let What::TestModule(module) = finding.what {
                found.insert(format!("{directory}/{module}.rs"));
            }
        }
    }
    found
}

fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn layers_import_only_what_the_tables_allow() {
    let sources = files("src", "rs");
    let tests = test_files(&sources);
    let complaints: Vec<_> =
        sources.iter().flat_map(|(path, source)| imports(path, source, tests.contains(path))).collect();
    assert_none(&complaints);
}

#[test]
fn every_layer_is_in_the_table_and_the_table_keeps_the_law() {
    for (path, _) in files("src", "rs") {
        let (layer, _) = place(&path);
        assert!(layer == "lib" || MAY_IMPORT.iter().any(|(name, _)| *name == layer), "{path}: no row for {layer}");
    }
    for (layer, forbidden) in NEVER {
        let allowed = [table(MAY_IMPORT, layer), table(TESTS_MAY_IMPORT, layer)].concat();
        let broken: Vec<_> = forbidden.iter().filter(|module| allowed.contains(module)).collect();
        assert!(broken.is_empty(), "{layer} must never import {broken:?}");
    }
}

#[test]
fn files_are_short_and_state_their_purpose() {
    let mut sources = [files("src", "rs"), files("tests", "rs"), files("clients/rust", "rs")].concat();
    sources.extend([files("clients/python/src", "rs"), files("clients/python/python", "py")].concat());
    sources.extend([files("clients/python/tests", "py"), files("clients/python/examples", "py")].concat());
    sources.push(("build.rs".to_owned(), fs::read_to_string(root().join("build.rs")).unwrap()));
    let mut complaints: Vec<_> = sources.iter().flat_map(|(path, source)| form(path, source)).collect();
    // Generated, both of them.
    let is_snapshot = |path: &str| path.starts_with("migrations/") && path.ends_with("/schema.sql");
    let others = [files("migrations", "sql"), files("deploy", "sh"), files("proto", "proto")].concat();
    complaints
        .extend(others.iter().filter(|(path, _)| !is_snapshot(path)).flat_map(|(path, source)| form(path, source)));
    assert_none(&complaints);
}

#[test]
fn rooms_keep_their_budget() {
    let sources = files("src", "rs");
    let mut rooms: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (path, source) in &sources {
        let room = rooms.entry(place(path).0).or_default();
        *room = (room.0 + 1, room.1 + source.lines().count());
    }
    assert_none(&rooms.iter().filter_map(|(name, size)| over_budget(name, *size)).collect::<Vec<_>>());
}

/// The complaint about a room with this many files and lines.
fn over_budget(room: &str, (files, lines): (usize, usize)) -> Option<String> {
    let (max_files, max_lines) =
        if room == "cli" { (CLI_MAX_FILES, CLI_MAX_LINES) } else { (ROOM_MAX_FILES, ROOM_MAX_LINES) };
    (files > max_files || lines > max_lines)
        .then(|| format!("{room}: {files} files, {lines} lines; move what is a subject of its own to a new room"))
}

#[test]
fn public_api_of_the_client_names_no_type_of_the_wire() {
    let sources = files("clients/rust/src", "rs");
    assert_none(&sources.iter().flat_map(|(path, source)| wire_in_api(path, source)).collect::<Vec<_>>());
}

#[test]
fn nothing_outside_tests_panics() {
    let sources = [files("src", "rs"), files("clients/rust/src", "rs"), files("clients/python/src", "rs")].concat();
    let tests = test_files(&sources);
    let code = sources.iter().filter(|(path, _)| !tests.contains(path));
    assert_none(&code.flat_map(|(path, source)| panics(path, source)).collect::<Vec<_>>());
}

#[test]
fn no_lock_outlives_its_transaction() {
    let sources = [files("src", "rs"), files("migrations", "sql")].concat();
    assert_none(&sources.iter().flat_map(|(path, source)| session_locks(path, source)).collect::<Vec<_>>());
}

/// Complaints about public items of the client that name a type of the wire: an application would depend on its version.
fn wire_in_api(path: &str, source: &str) -> Vec<String> {
    let is_public = |line: &str| line.trim_start().starts_with("pub ");
    let names_wire = |line: &str| ["tonic", "prost", "wire::"].iter().any(|word| line.contains(word));
    let lines = source.lines().enumerate().filter(|(_, line)| is_public(line) && names_wire(line));
    lines.map(|(number, line)| format!("{path}:{}: a type of the wire in `{}`", number + 1, line.trim())).collect()
}

#[test]
fn tests_make_generated_clients_in_the_harness_alone() {
    let tests = files("tests", "rs");
    assert_none(&tests.iter().flat_map(|(path, source)| generated_clients(path, source)).collect::<Vec<_>>());
}

/// Complaints about generated clients that a test makes for itself.
fn generated_clients(path: &str, source: &str) -> Vec<String> {
    let makes =
        |line: &str| ["new(", "connect(", "with_"].iter().any(|call| line.contains(&format!("ServiceClient::{call}")));
    let lines = source.lines().enumerate().filter(|(_, line)| makes(line) && !GENERATED_CLIENTS_IN.contains(&path));
    lines
        .map(|(number, _)| format!("{path}:{}: use harness::actor::Caller, or harness::wire::Wire", number + 1))
        .collect()
}

// ---- Each check can fail ----

#[test]
fn a_generated_client_outside_the_harness_is_found() {
    // In two parts, or this file would be found.
    let source = ["let a = RegistryServiceClient::clone(b);\nlet c = RegistryServiceClient", "::new(d);"].concat();
    let found = generated_clients("tests/it/a.rs", &source);
    assert_eq!(found, ["tests/it/a.rs:2: use harness::actor::Caller, or harness::wire::Wire"]);
    assert_eq!(generated_clients("tests/it/harness/wire.rs", &source), [""; 0]);
}

#[test]
fn a_type_of_the_wire_in_the_api_is_found() {
    let source = "pub fn a(b: tonic::Status) {}\npub(crate) fn c(d: tonic::Status) {}\npub fn e() {}";
    assert_eq!(wire_in_api("a.rs", source), ["a.rs:1: a type of the wire in `pub fn a(b: tonic::Status) {}`"]);
}

#[test]
fn a_forbidden_import_is_found_by_layer_and_line() {
    let source = "//! x\nuse crate::{model::Revision, store::Pool};\n";
    assert_eq!(imports("src/view/mod.rs", source, false), ["src/view/mod.rs:2: view must not import store"]);
    assert_eq!(imports("src/feed/mod.rs", source, false), [""; 0]);
    let climbing = "//! x\nuse super::super::proto::v1;\n";
    assert_eq!(imports("src/http/routes.rs", climbing, false), ["src/http/routes.rs:2: http must not import proto"]);
    assert_eq!(imports("src/http.rs", "use crate::*;", false), ["src/http.rs:1: http must not import *"]);
}

#[test]
fn a_crate_out_of_its_place_is_found() {
    let source = "use tokio_postgres::Client;";
    assert_eq!(
        imports("src/view/mod.rs", source, false),
        [
            "src/view/mod.rs:1: tokio_postgres stays in postgres, locate, schema, store, runner, migrate, copy, suite, local, database_url"
        ]
    );
    assert_eq!(imports("src/postgres/pool.rs", source, false), [""; 0]);
}

#[test]
fn a_room_over_its_budget_is_found() {
    assert_eq!(over_budget("model", (25, 3_000)), None);
    assert!(over_budget("model", (26, 10)).is_some_and(|text| text.starts_with("model: 26 files")));
    assert!(over_budget("model", (1, 3_001)).is_some());
    assert_eq!(over_budget("cli", (45, 6_500)), None);
    assert!(over_budget("cli", (40, 6_501)).is_some());
}

#[test]
fn a_panic_is_found_outside_tests_only() {
    let source = "fn f() { a.unwrap(); b.expect(\"c\"); panic!(); d.unwrap_or(e); }\n#[cfg(test)]\nmod tests { fn g() { a.unwrap(); } }";
    assert_eq!(
        panics("a.rs", source),
        ["a.rs:1: .unwrap() outside tests", "a.rs:1: .expect() outside tests", "a.rs:1: panic! outside tests"]
    );
}

#[test]
fn a_long_file_and_a_silent_one_are_found() {
    let long = format!("//! x\n{}", "\n".repeat(MAX_LINES));
    assert_eq!(form("a.rs", &long), ["a.rs: 401 lines, at most 400 are allowed; split it by what it does"]);
    assert_eq!(form("a.rs", "use a;\n"), ["a.rs: does not open with `//!` and what the file is for"]);
}

#[test]
fn a_session_lock_is_found() {
    let found = session_locks("migrations/099_x.sql", "PERFORM PG_TRY_ADVISORY_LOCK(42);");
    assert_eq!(found, ["migrations/099_x.sql: pg_try_advisory_lock() is a session lock; use pg_advisory_xact_lock()"]);
    assert_eq!(session_locks("migrations/099_x.sql", "PERFORM pg_advisory_xact_lock(42);"), [""; 0]);
    assert_eq!(session_locks(SESSION_LOCKS_STAY_IN, "pg_try_advisory_lock(42)"), [""; 0]);
}

#[test]
fn a_file_that_is_all_test_code_is_known() {
    let sources = [("src/cli/run/mod.rs".to_owned(), "#[cfg(test)]\nmod scripted;\nmod signals;".to_owned())];
    assert_eq!(test_files(&sources), BTreeSet::from(["src/cli/run/scripted.rs".to_owned()]));
}
