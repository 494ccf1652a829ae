//! What the packages that the workspace depends on declare: the compiler that they need.

use std::{env, path::Path, process::Command};

use serde_json::Value;

/// What cargo knows of all packages in `Cargo.lock`, without the network.
fn packages() -> Vec<Value> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--locked", "--offline", "--format-version", "1"]);
    let read = command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let metadata: Value = serde_json::from_slice(&read.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Major, minor and patch of a version of Rust.
fn version(text: &str) -> Vec<u32> {
    let mut numbers: Vec<u32> = text.split('.').map(|number| number.parse().unwrap()).collect();
    numbers.resize(3, 0);
    numbers
}

#[test]
fn no_dependency_needs_a_newer_rust_than_the_workspace_names() {
    let packages = packages();
    let is_ours = |package: &Value| package["source"].is_null();
    let ours: Vec<_> = packages.iter().filter(|package| is_ours(package)).collect();
    let named: Vec<_> = ours.iter().map(|package| package["rust_version"].as_str().unwrap()).collect();
    assert!(named.len() >= 3 && named.windows(2).all(|pair| pair[0] == pair[1]), "{named:?}");
    let limit = version(named[0]);
    let newer: Vec<_> = packages
        .iter()
        .filter(|package| package["rust_version"].as_str().is_some_and(|needed| version(needed) > limit))
        .map(|package| format!("{} needs Rust {}", package["name"], package["rust_version"]))
        .collect();
    assert!(newer.is_empty(), "Cargo.toml names Rust {}: {newer:?}", named[0]);
}
