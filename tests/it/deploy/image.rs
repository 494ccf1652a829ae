//! The image and the compose file, as far as they can be judged without a container engine: what is copied is there and is
//! enough, what is called exists, what is set is a setting.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use serde_json::Value;

use super::{
    misunderstood, path, text,
    tools::{content, tool},
};
use crate::harness::scratch::Scratch;

/// The instructions of the Dockerfile, continuation lines joined, comments left out.
fn instructions() -> Vec<(String, String)> {
    let joined = text("deploy/Dockerfile").replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (instruction, rest) = line.split_once(' ').unwrap();
            (instruction.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" "))
        })
        .collect()
}

fn of(kind: &str) -> Vec<String> {
    instructions().into_iter().filter(|(instruction, _)| instruction == kind).map(|(_, rest)| rest).collect()
}

/// What is copied from the build context.
fn copied() -> Vec<(Vec<String>, String)> {
    let copies = of("COPY").into_iter().filter(|rest| !rest.starts_with("--from"));
    copies
        .map(|rest| {
            let mut words: Vec<String> = rest.split(' ').map(str::to_owned).collect();
            let target = words.pop().unwrap();
            (words, target)
        })
        .collect()
}

fn json_words(text: &str) -> Vec<String> {
    serde_json::from_str(text.trim()).unwrap_or_else(|_| panic!("{text} is not in the exec form"))
}

#[test]
fn files_that_the_image_copies_suffice_to_build() {
    let scratch = Scratch::in_memory();
    let into = scratch.path();
    for (sources, target) in copied() {
        for source in &sources {
            let to = if target == "./" { into.join(source) } else { into.join(&target) };
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            let status = Command::new("cp").arg("-r").arg(path(source)).arg(&to).status().unwrap();
            assert!(status.success(), "COPY {source}");
        }
    }
    // Reads the manifest, and finds the file of every target in it.
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--no-deps", "--format-version=1"])
        .current_dir(into)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let build = &of("RUN")[0];
    assert!(build.contains("cargo build --release --locked --bin musterd "), "{build}");
    // The tests are not built into it, so what the program embeds must come from what was copied.
    let mut unread = vec![into.join("src")];
    while let Some(next) = unread.pop() {
        if next.is_dir() {
            unread.extend(fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let source = fs::read_to_string(&next).unwrap_or_default();
        for (at, _) in source.match_indices("include_str!(\"") {
            let name = source[at..].split('"').nth(1).unwrap();
            assert!(next.parent().unwrap().join(name).exists(), "{} includes {name}", next.display());
        }
    }
}

#[test]
fn nothing_that_is_copied_is_kept_from_the_build_context() {
    let ignore = text(".dockerignore");
    let kept: BTreeSet<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(ignore.lines().any(|line| line == "*"), "everything else stays out");
    let copied: BTreeSet<String> = copied().into_iter().flat_map(|(sources, _)| sources).collect();
    assert_eq!(kept, copied.iter().map(String::as_str).collect());
}

#[test]
fn the_toolchain_of_the_image_is_new_enough() {
    let stages = of("FROM");
    let version = |text: &str| -> Vec<u32> { text.split('.').map(|part| part.parse().unwrap()).collect() };
    let image = stages[0].split_once("rust:").unwrap().1.split('-').next().unwrap();
    let manifest = text("Cargo.toml");
    let needed = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(version(image) >= version(needed), "rust {image}, but {needed} is needed");
    assert!(stages.iter().all(|stage| !stage.contains(":latest")), "{stages:?}");
    assert!(stages[0].contains("bookworm") && stages[1].contains("debian12"), "one Debian, one C library: {stages:?}");
}

#[test]
fn command_of_the_image_is_accepted_by_the_program() {
    let environment: BTreeMap<String, String> = of("ENV")
        .iter()
        .flat_map(|rest| rest.split(' '))
        .map(|pair| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap())
        .collect();
    assert_eq!(json_words(&of("ENTRYPOINT")[0]), ["/usr/bin/musterd"]);
    let command = json_words(&of("CMD")[0]);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    assert_eq!(misunderstood(&words, &environment), None);
    let health = of("HEALTHCHECK").remove(0);
    let health = json_words(health.split_once("CMD ").unwrap().1);
    let words: Vec<&str> = health.iter().map(String::as_str).collect();
    assert_eq!(words[0], "/usr/bin/musterd");
    assert_eq!(misunderstood(&words[1..], &BTreeMap::new()), None);
    let user = of("USER").remove(0);
    assert!(user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)), "a number, not root: {user}");
    let ports = |name: &str| environment[name].rsplit_once(':').unwrap().1.to_owned();
    assert_eq!(of("EXPOSE"), [format!("{} {}", ports("MUSTERD_GRPC_ADDR"), ports("MUSTERD_HTTP_ADDR"))]);
}

#[test]
fn the_image_passes_hadolint() {
    let Some(mut hadolint) = tool(&["hadolint"]) else { return };
    content(hadolint.arg(path("deploy/Dockerfile")));
}

/// What is wrong with a compose file.
fn complaints(compose: &Value) -> Vec<String> {
    let mut complaints = Vec::new();
    let services = compose["services"].as_object().unwrap();
    for (name, service) in services {
        let mut complain = |text: String| complaints.push(format!("{name}: {text}"));
        for dependency in service["depends_on"].as_object().into_iter().flat_map(serde_json::Map::keys) {
            if !services.contains_key(dependency) {
                complain(format!("there is no service {dependency}"));
            }
        }
        for port in service["ports"].as_array().into_iter().flatten() {
            if !port.as_str().unwrap_or_default().starts_with("127.0.0.1:") {
                complain(format!("{port} is open to every address"));
            }
        }
        if !service["image"].as_str().unwrap_or_default().starts_with("musterd:") {
            continue;
        }
        let words: Vec<&str> = service["command"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut environment: BTreeMap<String, String> = BTreeMap::new();
        // Merge keys are left to the reader by some parsers.
        for source in [&service["environment"]["<<"], &service["environment"]] {
            for (name, value) in source.as_object().into_iter().flatten().filter(|(name, _)| *name != "<<") {
                environment.insert(name.clone(), value.as_str().unwrap_or_default().to_owned());
            }
        }
        if !environment.contains_key("MUSTERD_DATABASE_URL") {
            complain("the image has no PostgreSQL, MUSTERD_DATABASE_URL is missing".to_owned());
        }
        if let Some(why) = misunderstood(&words, &environment) {
            complain(why);
        }
        if service["read_only"] != true || service["cap_drop"][0] != "ALL" {
            complain("it needs neither a file system to write to nor capabilities".to_owned());
        }
    }
    complaints
}

#[test]
fn the_compose_file_fits_the_program() {
    let compose: Value = serde_saphyr::from_str(&text("deploy/compose.yaml")).unwrap();
    assert_eq!(complaints(&compose), [""; 0]);
    let daemon = &compose["services"]["musterd"];
    assert_eq!(daemon["depends_on"]["migrate"]["condition"], "service_completed_successfully");
    let grace = daemon["stop_grace_period"].as_str().unwrap().trim_end_matches('s').parse::<u64>().unwrap();
    assert!(grace > musterd::lifecycle::WATCHDOG_LIMIT.as_secs(), "a daemon has 10 s to leave");
    let build = &compose["services"]["migrate"]["build"];
    let file = path("deploy").join(build["context"].as_str().unwrap()).join(build["dockerfile"].as_str().unwrap());
    assert!(file.exists(), "{}", file.display());

    let mut broken = compose.clone();
    broken["services"]["musterd"]["command"] = serde_json::json!(["server"]);
    broken["services"]["musterd"]["ports"] = serde_json::json!(["7717:7717"]);
    broken["services"]["migrate"]["depends_on"] = serde_json::json!({ "database": {} });
    assert_eq!(complaints(&broken).len(), 3, "{:?}", complaints(&broken));
}
