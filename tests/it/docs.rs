//! What README.md and the pages in docs/ tell a reader to type is typed, and what they show must come out.
//!
//! Documentation that was once true is worse than none. So the commands are taken from the pages themselves, run in
//! their order in one shell against a real daemon, and their output is compared ([`compare`]). SQL runs in the page's
//! database, examples in files are those files. What cannot be run here carries a mark with the reason, and there are
//! as many marks as [`NOT_RUN`] says.
//!
//! Tools that musterd itself does not need are named in [`TOOLS`]. Where one is missing the test fails and says how to
//! get it; `MUSTERD_TEST_WITHOUT=python3,buf` leaves out what needs them, on purpose.

mod compare;
mod glossary;
mod links;
mod page;
mod paths;
mod prose;
mod session;

use std::{collections::BTreeSet, fs, net::TcpListener, path::Path, time::Duration};

use compare::{Bindings, compare};
use page::{Command, Mark, blocks, commands};
use session::{Session, World};

use crate::harness::{
    daemon::Daemon,
    postgres::{TestDatabase, connect},
    registry::{Registry, run},
    wait::wait_until,
};

/// How many blocks of all pages are not run.
const NOT_RUN: usize = 9;

/// What commands of the pages need besides musterd, and how to get it.
const TOOLS: &[(&str, &str)] = &[
    ("buf", "tests/run.sh gets it with npm; or npm install @bufbuild/buf into ~/.cache/musterd-ci"),
    ("python3", "apt-get install python3 python3-venv"),
    ("psql", "apt-get install postgresql-client"),
    ("pg_dump", "apt-get install postgresql-client"),
    ("curl", "apt-get install curl"),
];

/// Commands that may be repeated until they show what was announced; a reader takes his time.
const READS: &[&str] = &[
    "musterd resolve",
    "musterd list",
    "musterd watch",
    "musterd epoch show",
    "musterd epoch list",
    "musterd check-lease",
    "musterd get",
    "musterd describe",
    "musterd explain",
    "musterd status",
    "musterd check",
    "musterd wait",
    "buf curl",
    "curl",
    "psql",
    "cat",
];

/// How long what was announced may take.
const BOUND: Duration = Duration::from_secs(45);

/// What is there when a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// Nothing: the page starts the daemon itself.
    Nothing,
    /// A daemon on an empty registry, at the usual ports.
    Daemon,
    /// A database as SeedCore has made it, and no daemon.
    SeedDatabase,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// README.md and every page in docs/ and docs/clients/.
fn pages() -> Vec<String> {
    let of = |folder: &str| {
        let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        let pages = entries.filter_map(|name| name.into_string().ok()).filter(|name| name.ends_with(".md"));
        pages.map(|name| format!("{folder}/{name}")).collect::<Vec<_>>()
    };
    std::iter::once("README.md".to_owned()).chain(of("docs")).chain(of("docs/clients")).collect()
}

/// The database, the daemon and the shell of a page.
struct Scene {
    session: Session,
    database: TestDatabase,
    _daemon: Option<Daemon>,
}

impl Scene {
    async fn set(before: Before, pasted: bool) -> Self {
        let database = match before {
            Before::Daemon => Registry::head().await.database,
            Before::Nothing | Before::SeedDatabase => TestDatabase::create().await,
        };
        if before == Before::SeedDatabase {
            // By its own scripts, as that system does: no history of migrations is kept.
            for script in ["011_add_runtime_registry.sql", "012_runtime_registry_functions.sql"] {
                run(&connect(database.url()).await, &read(&format!("migrations/{script}"))).await;
            }
        }
        let daemon = match before {
            Before::Daemon => Some(Daemon::start(database.url()).await),
            _ => None,
        };
        // Ports that are free now; the system gives them to no other process so soon.
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (grpc_addr, http_addr) = match &daemon {
            Some(daemon) => (daemon.grpc_addr.clone(), daemon.http_addr.clone()),
            None => (free(), free()),
        };
        let second = (free(), free());
        let world = World { grpc_addr, http_addr, second, database_url: database.url().to_owned() };
        Self { session: Session::start(world, pasted), database, _daemon: daemon }
    }
}

/// Follows a page slowly, as a reader does: each command finds what those before it have started.
async fn follow(page: &str, before: Before) {
    read_and_type(page, before, false).await;
}

/// Does what a page says as it is pasted: one command after the other, each once, without a wait that the page does not
/// ask for.
async fn paste(page: &str, before: Before) {
    read_and_type(page, before, true).await;
}

async fn read_and_type(page: &str, before: Before, pasted: bool) {
    let mut scene = Scene::set(before, pasted).await;
    let mut bindings = Bindings::default();
    for block in blocks(&read(page)) {
        match block.mark {
            Mark::NotRun(_) => continue,
            Mark::Fresh => {
                scene.session.end().await;
                scene = Scene::set(Before::Nothing, pasted).await;
                bindings = Bindings::default();
            }
            Mark::None | Mark::File(_) => {}
        }
        match block.language.as_str() {
            "console" | "sh" => {
                let commands = commands(&block);
                for (at, command) in commands.iter().enumerate().filter(|(_, command)| has_tools(page, command)) {
                    let asks_for_code = commands.get(at + 1).is_some_and(|next| next.text.contains("$?"));
                    let compares = block.language == "console";
                    bindings = obey(&mut scene.session, page, command, compares, asks_for_code, bindings, pasted).await;
                }
            }
            "sql" => run(&connect(scene.database.url()).await, &block.text).await,
            _ => {}
        }
    }
    scene.session.end().await;
}

/// Types one command, and compares.
async fn obey(
    session: &mut Session,
    page: &str,
    command: &Command,
    compares: bool,
    may_fail: bool,
    bindings: Bindings,
    pasted: bool,
) -> Bindings {
    let text = bindings.translate(&command.text);
    let is_read = !pasted && READS.iter().any(|read| text.starts_with(read));
    let place = format!("{page}:{}: {}", command.line, command.text);
    let mut once = async || {
        let (output, code) = session.run(&text).await;
        if code != 0 && !may_fail {
            return Err(format!("exit code {code}: {output}\n{}", session.background()));
        }
        if !compares {
            return Ok(bindings.clone());
        }
        let is_list = text.starts_with("musterd list") || text.starts_with("musterd wait");
        let orders = if is_list { orders_of_rows(&output) } else { vec![output] };
        let compared = orders.iter().map(|output| compare(&command.output, output, &bindings));
        let compared = compared.reduce(|first, second| first.or(second)).unwrap_or(Err(String::new()));
        compared.map_err(|difference| format!("{difference}\nall of it:\n{}\n{}", orders[0], session.background()))
    };
    if is_read {
        return wait_until(&place, BOUND, once).await;
    }
    once().await.unwrap_or_else(|error| panic!("{place}\n{error}"))
}

/// A table with its rows in every order: instances are listed by their ids, which are random.
fn orders_of_rows(output: &str) -> Vec<String> {
    fn permutations(rows: &[&str]) -> Vec<Vec<String>> {
        if rows.is_empty() || rows.len() > 5 {
            return vec![rows.iter().map(|row| (*row).to_owned()).collect()];
        }
        let firsts = (0..rows.len()).flat_map(|first| {
            let rest = [&rows[..first], &rows[first + 1..]].concat();
            permutations(&rest).into_iter().map(move |rest| [vec![rows[first].to_owned()], rest].concat())
        });
        firsts.collect()
    }
    let lines: Vec<_> = output.lines().collect();
    let Some((title, rows)) = lines.split_first() else { return vec![output.to_owned()] };
    permutations(rows).into_iter().map(|rows| format!("{title}\n{}", rows.join("\n"))).collect()
}

/// Whether what a command needs is there. Panics if it is not and `MUSTERD_TEST_WITHOUT` does not name it.
fn has_tools(page: &str, command: &Command) -> bool {
    let without = std::env::var("MUSTERD_TEST_WITHOUT").unwrap_or_default();
    let needs = |tool: &str| {
        let words = command.text.split(|character: char| !(character.is_alphanumeric() || "_-.".contains(character)));
        let python = tool == "python3" && command.text.contains("target/venv");
        python || words.clone().any(|word| word == tool)
    };
    TOOLS.iter().filter(|(tool, _)| needs(tool)).all(|(tool, how)| {
        let skipped = without.split(',').any(|name| name.trim() == *tool);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places: Vec<_> = std::env::split_paths(&path).collect();
        places.push(session::cache().join("node_modules/.bin"));
        let found = places.iter().any(|place| place.join(tool).is_file());
        assert!(
            found || skipped,
            "{page}:{}: {} needs {tool}, which is not here: {how}. Or set MUSTERD_TEST_WITHOUT={tool} to leave out \
             what needs it",
            command.line,
            command.text
        );
        found && !skipped
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn readme_works_as_documented() {
    follow("README.md", Before::Nothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readme_works_as_documented_when_pasted() {
    paste("README.md", Before::Nothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reference_page_works_as_documented() {
    follow("docs/reference.md", Before::Nothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reference_page_works_as_documented_when_pasted() {
    paste("docs/reference.md", Before::Nothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concepts_page_works_as_documented() {
    follow("docs/concepts.md", Before::Daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concepts_page_works_as_documented_when_pasted() {
    paste("docs/concepts.md", Before::Daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn api_page_works_as_documented() {
    follow("docs/api.md", Before::Daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn api_page_works_as_documented_when_pasted() {
    paste("docs/api.md", Before::Daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operating_page_works_as_documented() {
    follow("docs/operating.md", Before::Nothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operating_page_works_as_documented_when_pasted() {
    paste("docs/operating.md", Before::Nothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seedcore_database_is_taken_over_and_given_back_step_by_step() {
    follow("docs/seedcore.md", Before::SeedDatabase).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seedcore_database_is_taken_over_when_the_page_is_pasted() {
    paste("docs/seedcore.md", Before::SeedDatabase).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_page_is_followed_and_pasted_on_a_daemon() {
    let source = read("tests/it/docs.rs");
    for page in pages() {
        if !source.contains(&format!("follow(\"{page}\"")) {
            follow(&page, Before::Daemon).await;
            paste(&page, Before::Daemon).await;
        }
    }
}

#[test]
fn every_page_that_is_followed_is_also_pasted() {
    let source = read("tests/it/docs.rs");
    for (_, rest) in source.match_indices("follow(\"").map(|(at, call)| source.split_at(at + call.len())) {
        let arguments = rest.split(')').next().unwrap();
        assert!(source.contains(&format!("paste(\"{arguments})")), "{arguments} is followed and never pasted");
    }
}

#[test]
fn every_block_is_of_a_kind_that_is_held_true_or_shows_no_command() {
    let known = ["console", "sh", "sql", "python", "rust", "text", "json", "toml", "yaml", "ini"];
    for page in pages() {
        for block in blocks(&read(&page)) {
            let place = format!("{page}:{}", block.line);
            assert!(known.contains(&block.language.as_str()), "{place}: {:?} is not checked", block.language);
            let is_code = matches!(block.language.as_str(), "python" | "rust");
            assert!(!is_code || matches!(block.mark, Mark::File(_)), "{place}: name the file this code is from");
        }
    }
}

#[test]
fn examples_are_shown_as_they_are() {
    let mut shown = BTreeSet::new();
    for page in pages() {
        for block in blocks(&read(&page)) {
            let Mark::File(path) = &block.mark else { continue };
            assert!(read(path).contains(&block.text), "{page}:{}: is not what stands in {path}", block.line);
            shown.insert(path.clone());
        }
    }
    let examples = fs::read_dir(root().join("docs/examples")).unwrap();
    for example in examples.map(|example| example.unwrap().file_name().into_string().unwrap()) {
        assert!(shown.contains(&format!("docs/examples/{example}")), "no page shows {example}");
    }
}

#[test]
fn few_blocks_are_not_run_and_each_has_a_reason() {
    let mut reasons = Vec::new();
    for page in pages() {
        for block in blocks(&read(&page)) {
            if let Mark::NotRun(reason) = block.mark {
                assert!(reason.split(' ').count() >= 3, "{page}:{}: {reason:?} is no reason", block.line);
                reasons.push(format!("{page}:{}: {reason}", block.line));
            }
        }
    }
    assert_eq!(reasons.len(), NOT_RUN, "{reasons:#?}");
}
