//! The Debian package, by what Cargo.toml says of it: what it takes is there, and what is needed is taken.

use std::process::Command;

use serde_json::Value;

use super::{path, text};

/// The section `package.metadata.deb`, as cargo reads it.
fn package() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--no-deps", "--format-version=1"])
        .current_dir(path(""))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    packages.iter().find(|package| package["name"] == "musterd").unwrap()["metadata"]["deb"].clone()
}

/// Where each file comes from, goes to, and with which mode.
fn assets(package: &Value) -> Vec<(String, String, String)> {
    let word = |asset: &Value, at: usize| asset[at].as_str().unwrap().to_owned();
    let assets = package["assets"].as_array().unwrap().iter();
    assets.map(|asset| (word(asset, 0), word(asset, 1), word(asset, 2))).collect()
}

#[test]
fn the_package_takes_what_is_there_and_what_the_unit_needs() {
    let package = package();
    let assets = assets(&package);
    for (source, _, mode) in &assets {
        assert!(source.starts_with("target/release/") || path(source).is_file(), "{source}");
        let is_script =
            source.starts_with("target/") || source == "deploy/init-db.sh" || source == "deploy/verify-db.sh";
        assert_eq!(mode == "755", is_script, "{source} with mode {mode}");
    }
    let goes_to = |source: &str| assets.iter().find(|asset| asset.0 == source).map(|asset| asset.1.clone()).unwrap();
    assert_eq!(goes_to("target/release/musterd"), "usr/bin/");
    let settings = goes_to("deploy/systemd/musterd.env");
    assert!(text("deploy/systemd/musterd.service").contains(&format!("EnvironmentFile=-/{settings}\n")));
    assert_eq!(package["conf-files"], serde_json::json!([format!("/{settings}")]), "an upgrade must not overwrite it");
    // What the scripts read beside them goes where they go.
    for file in ["deploy/verify-db.sh", "deploy/psql.sh", "deploy/roles.sql"] {
        assert_eq!(goes_to(file), goes_to("deploy/init-db.sh"), "{file}");
    }
    let units = path(package["systemd-units"]["unit-scripts"].as_str().unwrap());
    assert!(units.join(format!("{}.service", package["systemd-units"]["unit-name"].as_str().unwrap())).is_file());
    let scripts = path(package["maintainer-scripts"].as_str().unwrap());
    for script in ["postinst", "postrm"] {
        assert!(std::fs::read_to_string(scripts.join(script)).unwrap().contains("\n#DEBHELPER#\n"), "{script}");
    }
}
