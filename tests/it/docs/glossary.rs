//! `docs/glossary.md` is the only glossary, and the places where a reader meets the words lead to it.
//!
//! Four tables of words once defined "suspect" in three ways. So a table of words anywhere else is an error.

use std::{collections::BTreeSet, fs};

use super::{pages, paths, read, root};

const GLOSSARY: &str = "docs/glossary.md";
/// Where the words are used first.
const LINKING: [&str; 7] = [
    "README.md",
    "docs/concepts.md",
    "src/lib.rs",
    "proto/muster/v1/cluster.proto",
    "proto/muster/v1/decision.proto",
    "proto/muster/v1/discovery.proto",
    "proto/muster/v1/registry.proto",
];

/// The first line that heads a table of words, with its number.
fn table_of_words(text: &str) -> Option<usize> {
    text.lines().position(|line| line.trim_start_matches("//!").trim_start().to_lowercase().starts_with("| word |"))
}

#[test]
fn words_are_defined_once_in_order() {
    let words: Vec<String> = read(GLOSSARY)
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" | "))
        .skip(1)
        .map(|(word, _)| word.to_lowercase())
        .filter(|word| !word.starts_with('-'))
        .collect();
    assert!(words.len() >= 25, "{words:?}");
    assert!(words.is_sorted() && words.iter().collect::<BTreeSet<_>>().len() == words.len(), "{words:?}");
}

#[test]
fn no_other_page_or_module_has_a_glossary() {
    assert!(table_of_words(&read(GLOSSARY)).is_some(), "{GLOSSARY} is not recognised as a table of words");
    let sources = ["lib.rs", "proto.rs"].map(|name| format!("src/{name}"));
    let protocol = fs::read_dir(root().join("proto/muster/v1")).unwrap();
    let protocol = protocol.map(|entry| format!("proto/muster/v1/{}", entry.unwrap().file_name().to_str().unwrap()));
    for page in pages().into_iter().chain(paths::pages()).chain(sources).chain(protocol).filter(|page| page != GLOSSARY)
    {
        assert_eq!(table_of_words(&read(&page)), None, "{page} has a table of words; move them to {GLOSSARY}");
    }
}

#[test]
fn readers_are_led_to_the_glossary() {
    for page in LINKING {
        assert!(read(page).contains("glossary.md"), "{page} does not name {GLOSSARY}");
    }
}

#[test]
fn table_of_words_is_found() {
    assert_eq!(table_of_words("//! a\n//! | word | meaning |\n"), Some(1));
    assert_eq!(table_of_words("| Word | Meaning |\n"), Some(0));
    assert_eq!(table_of_words("| Message | Level |\nword\n"), None);
}
