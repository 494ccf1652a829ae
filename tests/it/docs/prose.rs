//! The constructions that `docs/style.md` bans: in pages, runbooks, alerts, the protocol's comments, texts and comments of
//! the program and its tests, help, and the names of tests. What stands in backticks in a comment is quoted.

use std::{fs, path::Path, str::FromStr as _, sync::LazyLock};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use regex::Regex;

const BANNED: &str = r"(?i-u)\b(whoever|nobody|somebody|everybody|anybody|anew|mend|mends|mended|mending)\b|\bthe way to the (database|daemon)\b|\bthe living\b|\bseed system\b";

/// What the name of a test has no use for besides: a beginning without a subject, and words that `docs/style.md` replaces.
const BANNED_IN_TESTS: &str = r"(?-u)^(what|whatever|however|who)\b|\b(told|hurt|hurts|doubted|survey|trouble|doorbell|agenda|in vain|promised)\b";

/// Texts that are exempt: the name of a user of the operating system.
const EXEMPT: &[&str] = &["nobody"];

/// Folders and files whose text is read as it stands, with the endings that count.
const PAGES: &[(&str, &[&str])] = &[
    ("README.md", &["md"]),
    ("CONTRIBUTING.md", &["md"]),
    ("SECURITY.md", &["md"]),
    ("docs", &["md", "py", "rs"]),
    ("deploy", &["md", "yaml", "toml", "env", "sh", "json"]),
    ("proto", &["proto"]),
    ("clients/python/README.md", &["md"]),
    ("clients/python/python", &["py", "pyi"]),
    ("clients/python/examples", &["py"]),
];

/// The page that names what is banned.
const RULES: &str = "docs/style.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files at or under a path with one of these endings, as paths from the root.
fn files(path: &str, endings: &[&str]) -> Vec<String> {
    let full = root().join(path);
    if full.is_file() {
        return vec![path.to_owned()];
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&full).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{path}/{}", entry.file_name().to_str().unwrap());
        let ending = Path::new(&path).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if entry.path().is_dir() {
            found.extend(files(&path, endings));
        } else if endings.contains(&ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Complaints about the lines of a page.
fn of_page(path: &str, text: &str, banned: &Regex) -> Vec<String> {
    let found = text.lines().enumerate().filter_map(|(number, line)| Some((number, banned.find(line)?.as_str(), line)));
    found.map(|(number, word, line)| format!("{path}:{}: {word:?} in: {}", number + 1, line.trim())).collect()
}

/// Complaints about the texts of a source file outside its tests. With `help`, doc comments count too: clap prints them.
fn of_source(path: &str, source: &str, help: bool, banned: &Regex) -> Vec<String> {
    let tokens = TokenStream::from_str(source).unwrap_or_else(|error| panic!("{path}: not Rust: {error}"));
    let mut texts = Vec::new();
    collect(tokens, help, &mut texts);
    let texts = texts.iter().filter(|(_, text)| !EXEMPT.contains(&text.trim_matches('"')));
    let found = texts.filter_map(|(line, text)| Some((line, banned.find(text)?.as_str(), text)));
    found.map(|(line, word, text)| format!("{path}:{line}: {word:?} in: {}", text.trim())).collect()
}

fn collect(tokens: TokenStream, help: bool, texts: &mut Vec<(usize, String)>) {
    let (mut is_test_item, mut is_attribute) = (false, false);
    for token in tokens {
        match token {
            TokenTree::Literal(literal) => texts.push((literal.span().start().line, literal.to_string())),
            TokenTree::Group(group) => {
                let content = group.stream().to_string().replace(' ', "");
                let is_doc = is_attribute && content.starts_with("doc=");
                // The reasons of lint attributes are read by engineers.
                let is_lint = is_attribute && content.starts_with("expect(");
                if is_attribute && content == "cfg(test)" {
                    is_test_item = true;
                } else if !is_test_item && !is_lint && (help || !is_doc) {
                    collect(group.stream(), help, texts);
                }
                if group.delimiter() == Delimiter::Brace {
                    is_test_item = false;
                }
                is_attribute = false;
            }
            TokenTree::Punct(punct) => {
                // `#[...]`, and `#![...]` for the head of a file.
                is_attribute = punct.as_char() == '#' || is_attribute && punct.as_char() == '!';
                is_test_item &= punct.as_char() != ';';
            }
            TokenTree::Ident(_) => is_attribute = false,
        }
    }
}

/// Complaints about the comments of a source file, rustdoc included.
fn of_comments(path: &str, source: &str, banned: &Regex) -> Vec<String> {
    static QUOTED: LazyLock<Regex> = LazyLock::new(|| Regex::new("`[^`]*`").unwrap());
    let lines = source.lines().enumerate().filter_map(|(number, line)| {
        let (_, comment) = line.trim_start().split_once("//").filter(|(code, _)| code.is_empty())?;
        Some((number, QUOTED.replace_all(comment, "").into_owned()))
    });
    let found = lines.filter_map(|(number, line)| Some((number, banned.find(&line)?.as_str().to_owned(), line)));
    found.map(|(number, word, line)| format!("{path}:{}: {word:?} in: {}", number + 1, line.trim())).collect()
}

/// Complaints about the names of functions, tests among them.
fn of_names(path: &str, source: &str, banned: &Regex) -> Vec<String> {
    static NAME: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?-u)\bfn (\w+)").unwrap());
    let names = NAME.captures_iter(source).map(|found| found[1].to_owned());
    let found = names.filter_map(|name| Some((banned.find(&name.replace('_', " "))?.as_str().to_owned(), name)));
    found.map(|(word, name)| format!("{path}: {word:?} in the name {name}")).collect()
}

/// Complaints about the names of tests: what stands behind an attribute `test`.
fn of_test_names(path: &str, source: &str, banned: &Regex) -> Vec<String> {
    static TEST: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"#\[(?:tokio::)?test(?:\([^)]*\))?\]\s+(?:#\[[^\n]*\]\s+)*(?:async )?fn ([a-z0-9_]+)").unwrap()
    });
    let names = TEST.captures_iter(source).map(|found| found[1].to_owned());
    let found = names.filter_map(|name| Some((banned.find(&name.replace('_', " "))?.as_str().to_owned(), name)));
    found.map(|(word, name)| format!("{path}: {word:?} in the test {name}")).collect()
}

/// Built once: in a debug build that takes as long as reading a thousand lines.
fn banned() -> &'static Regex {
    static BUILT: LazyLock<Regex> = LazyLock::new(|| Regex::new(BANNED).unwrap());
    &BUILT
}

fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "see {RULES}:\n{}\n", complaints.join("\n"));
}

#[test]
fn pages_and_protocol_have_no_banned_construction() {
    let pages = PAGES.iter().flat_map(|(path, endings)| files(path, endings)).filter(|path| path != RULES);
    let read = |path: String| of_page(&path, &fs::read_to_string(root().join(&path)).unwrap(), banned());
    assert_none(&pages.flat_map(read).collect::<Vec<_>>());
}

#[test]
fn texts_of_the_program_have_no_banned_construction() {
    let sources =
        [files("src", &["rs"]), files("clients/rust/src", &["rs"]), files("clients/python/src", &["rs"])].concat();
    let sources = sources.into_iter().filter(|path| !path.ends_with("tests.rs") && !path.contains("/tests/"));
    let read = |path: String| {
        let help = path.starts_with("src/cli") || path.starts_with("src/bench");
        of_source(&path, &fs::read_to_string(root().join(&path)).unwrap(), help, banned())
    };
    assert_none(&sources.flat_map(read).collect::<Vec<_>>());
}

#[test]
fn texts_of_the_status_page_have_no_banned_construction() {
    let read = |path: String| of_page(&path, &fs::read_to_string(root().join(&path)).unwrap(), banned());
    assert_none(&files("src/http/page", &["html", "js"]).into_iter().flat_map(read).collect::<Vec<_>>());
}

#[test]
fn messages_of_sql_functions_have_no_banned_construction() {
    let is_text = |line: &&str| !line.trim_start().starts_with("--") && line.contains('\'');
    let read = |path: String| {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        text.lines().filter(is_text).flat_map(|line| of_page(&path, line, banned())).collect::<Vec<_>>()
    };
    assert_none(&files("migrations", &["sql"]).into_iter().flat_map(read).collect::<Vec<_>>());
}

/// The sources of the program, with the comments of its unit tests.
fn sources() -> Vec<String> {
    let rust = ["src", "clients/rust/src", "clients/python/src", "benches", "build.rs"];
    rust.iter().flat_map(|path| files(path, &["rs"])).collect()
}

#[test]
fn comments_of_the_program_have_no_banned_construction() {
    let read = |path: String| of_comments(&path, &fs::read_to_string(root().join(&path)).unwrap(), banned());
    assert_none(&sources().into_iter().flat_map(read).collect::<Vec<_>>());
}

#[test]
fn names_of_tests_and_functions_have_no_banned_construction() {
    let read = |path: String| of_names(&path, &fs::read_to_string(root().join(&path)).unwrap(), banned());
    let sources = [sources(), files("tests", &["rs"])].concat();
    assert_none(&sources.into_iter().flat_map(read).collect::<Vec<_>>());
}

#[test]
fn texts_and_comments_of_tests_have_no_banned_construction() {
    let tests = files("tests/it", &["rs"]).into_iter().filter(|path| path != "tests/it/docs/prose.rs");
    let read = |path: String| {
        let source = fs::read_to_string(root().join(&path)).unwrap();
        [of_source(&path, &source, false, banned()), of_comments(&path, &source, banned())].concat()
    };
    assert_none(&tests.flat_map(read).collect::<Vec<_>>());
}

#[test]
fn names_of_tests_begin_with_their_subject_and_use_the_words_of_the_field() {
    let banned = Regex::new(BANNED_IN_TESTS).unwrap();
    let read = |path: String| of_test_names(&path, &fs::read_to_string(root().join(&path)).unwrap(), &banned);
    let sources = [sources(), files("tests", &["rs"])].concat();
    assert_none(&sources.into_iter().flat_map(read).collect::<Vec<_>>());
    let source =
        "#[test]\nfn what_is_there() {}\n#[tokio::test(flavor = \"x\")]\nasync fn caller_is_told_so() {}\nfn told() {}";
    let found = of_test_names("a.rs", source, &banned);
    assert_eq!(found, ["a.rs: \"what\" in the test what_is_there", "a.rs: \"told\" in the test caller_is_told_so"]);
}

#[test]
fn banned_construction_is_found_in_comments_and_names() {
    let source = "//! As user `nobody`\n/// Mend it\nfn f() { g(); // anew\n    // Nobody\n}\nfn nobody_starts() {}\n";
    let comments = of_comments("a.rs", source, banned());
    assert_eq!(comments, ["a.rs:2: \"Mend\" in: / Mend it", "a.rs:4: \"Nobody\" in: Nobody"]);
    assert_eq!(of_names("a.rs", source, banned()), ["a.rs: \"nobody\" in the name nobody_starts"]);
}

#[test]
fn banned_construction_is_found_in_texts_and_not_in_comments() {
    let source = "//! nobody\n/// Mend it\nfn f() { let user = \"nobody\"; g(\"start it anew\"); }\n#[cfg(test)]\nmod tests { const A: &str = \"anew\"; }";
    assert_eq!(of_source("a.rs", source, false, banned()), ["a.rs:3: \"anew\" in: \"start it anew\""]);
    assert_eq!(of_source("a.rs", source, true, banned()).len(), 3);
    assert_eq!(of_page("a.md", "amend\nThe living\n", banned()), ["a.md:2: \"The living\" in: The living"]);
}
