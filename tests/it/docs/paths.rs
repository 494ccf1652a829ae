//! The pages for contributors name files and functions of this repository: each of them exists.
//!
//! Between backquotes a page writes a path (`src/view/hub.rs`), a path with a name in it (`src/view/hub.rs: subscribe`,
//! more names after commas), or a path with a place-holder in capitals (`migrations/functions/NAME.sql`), of which the
//! folder has to exist. A name is one of a function, a type, a constant, or a test. So a page that describes the way of
//! a call through the program fails when that way changes.

use std::{collections::BTreeSet, fs, path::Path};

use super::root;

/// Pages for contributors: at the root, in `docs/`, and the decisions.
pub(super) fn pages() -> Vec<String> {
    let mut pages: Vec<String> =
        ["CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md", "migrations/README.md"].map(str::to_owned).to_vec();
    let decisions = fs::read_dir(root().join("docs/decisions")).unwrap();
    pages.extend(decisions.map(|entry| format!("docs/decisions/{}", entry.unwrap().file_name().to_str().unwrap())));
    pages.sort();
    pages
}

/// What is between backquotes on one line, outside blocks of code.
fn quoted(page: &str) -> Vec<(usize, &str)> {
    let mut in_code = false;
    let mut found = Vec::new();
    for (at, line) in page.lines().enumerate() {
        let is_fence = line.starts_with("```");
        in_code ^= is_fence;
        if !in_code && !is_fence {
            found.extend(line.split('`').skip(1).step_by(2).map(|span| (at + 1, span)));
        }
    }
    found
}

/// The path and the names of a span, if it is about a file: it has a folder that exists at the root, or it is one there.
fn reference<'a>(span: &'a str, top: &BTreeSet<String>) -> Option<(&'a str, Vec<&'a str>)> {
    let (path, names) = span.split_once(": ").unwrap_or((span, ""));
    let first = path.split('/').next()?;
    let is_path = top.contains(first) && !path.contains(char::is_whitespace);
    is_path.then(|| (path, names.split(", ").filter(|name| !name.is_empty()).collect()))
}

/// The files and folders at the root that belong to the repository.
fn top() -> BTreeSet<String> {
    let built = ["target", ".git"];
    let entries = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.filter(|name| !built.contains(&name.as_str())).collect()
}

/// Whether a file declares a name.
fn declares(source: &str, name: &str) -> bool {
    let kinds = [
        "fn",
        "struct",
        "enum",
        "trait",
        "const",
        "static",
        "mod",
        "type",
        "service",
        "message",
        "rpc",
        "macro_rules!",
    ];
    let is_end = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    // A function of a shell script is declared by its parentheses.
    source.contains(&format!("\n{name}() "))
        || kinds.iter().any(|kind| {
            let declaration = format!("{kind} {name}");
            source.match_indices(&declaration).any(|(at, found)| is_end(&source[at + found.len()..]))
        })
}

fn complaint(path: &str, names: &[&str]) -> Option<String> {
    let has_place_holder = |part: &str| part.contains("NAME") || part.contains("NNN");
    let existing: Vec<_> = path.split('/').take_while(|part| !has_place_holder(part)).collect();
    let file = root().join(existing.join("/"));
    if !file.exists() {
        return Some(format!("there is no {path}"));
    }
    let source = if file.is_file() { fs::read_to_string(&file).unwrap_or_default() } else { String::new() };
    names.iter().find(|name| !declares(&source, name)).map(|name| format!("{path} declares no {name}"))
}

#[test]
fn contributors_pages_name_existing_files_and_functions() {
    let top = top();
    let mut complaints = Vec::new();
    let mut names_checked = 0;
    for page in pages() {
        let text = fs::read_to_string(root().join(&page)).unwrap();
        for (line, span) in quoted(&text) {
            let Some((path, names)) = reference(span, &top) else { continue };
            names_checked += names.len();
            complaints.extend(complaint(path, &names).map(|why| format!("{page}:{line}: {why}")));
        }
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
    assert!(names_checked >= 60, "only {names_checked} names were checked: is the check reading the right pages?");
}

#[test]
fn architecture_lists_every_room() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    for entry in fs::read_dir(root().join("src")).unwrap().map(|entry| entry.unwrap().path()) {
        let stem = entry.file_stem().unwrap().to_str().unwrap();
        let row = format!("| `{stem}` |");
        assert!(Path::new(stem) == Path::new("lib") || page.contains(&row), "docs/architecture.md has no row {row}");
    }
}

#[test]
fn missing_file_or_function_is_found() {
    let top = top();
    let check = |span: &str| reference(span, &top).map(|(path, names)| complaint(path, &names));
    assert_eq!(check("src/view/hub.rs: subscribe, Hub"), Some(None));
    assert_eq!(check("src/view/hub.rs: subscrib"), Some(Some("src/view/hub.rs declares no subscrib".to_owned())));
    assert_eq!(check("src/view/hubb.rs"), Some(Some("there is no src/view/hubb.rs".to_owned())));
    assert_eq!(check("migrations/functions/NAME.sql"), Some(None));
    assert_eq!(check("migration/functions/NAME.sql"), None, "not of this repository");
    assert_eq!(check("cargo test --locked"), None);
    assert_eq!(quoted("a `b` c\n```sh\n`d`\n```\n`e` and `f`\n"), [(1, "b"), (5, "e"), (5, "f")]);
}
