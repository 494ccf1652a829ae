//! The files of a crate as a graph: which file uses which, and the circles among them.
//!
//! Two files that use each other are read as one, however short each is. A path is a use of the file in which it ends:
//! `crate::view::hub::Hub` of `src/view/hub.rs`, and `super::Error` of the `mod.rs` above, also where that only passes the
//! name on; inside a room, a file names the file that has the thing. Test code may look back at what it tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr as _,
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::{
    assert_none,
    code::{is_cfg_test, is_path_separator, is_punct, parts},
    files, test_files,
};

/// A module's path from the crate: `["view", "hub"]`.
type Module = Vec<String>;

/// The circles among these files, given with their text; each circle as the uses that it is made of.
fn circles(sources: &[(String, String)]) -> BTreeSet<Vec<String>> {
    let files: BTreeMap<Module, &str> = sources.iter().map(|(path, _)| (module(path), path.as_str())).collect();
    let uses: BTreeMap<Module, BTreeSet<Module>> = sources
        .iter()
        .map(|(path, source)| {
            let own = module(path);
            let paths = paths(source, &own).into_iter();
            let used = paths.filter_map(|path| file_of(&path, &files)).filter(|used| *used != own).collect();
            (own, used)
        })
        .collect();
    let reach: BTreeMap<&Module, BTreeSet<&Module>> = uses.keys().map(|from| (from, reached(from, &uses))).collect();
    let mut found = BTreeSet::new();
    for (module, others) in &reach {
        let members: BTreeSet<&Module> =
            others.iter().filter(|other| reach[*other].contains(module)).copied().collect();
        let within = |from: &&Module| uses[*from].iter().filter(|to| members.contains(to)).cloned().collect::<Vec<_>>();
        let circle: Vec<String> = members
            .iter()
            .flat_map(|from| within(from).into_iter().map(|to| format!("{} uses {}", files[*from], files[&to])))
            .collect();
        if !circle.is_empty() {
            found.insert(circle);
        }
    }
    found
}

/// The module of a file, in its crate: `clients/rust/src/watch.rs` is `watch`.
fn module(path: &str) -> Module {
    let inside = path.rsplit_once("src/").map_or(path, |(_, inside)| inside);
    match inside.trim_end_matches(".rs").trim_end_matches("/mod") {
        "lib" | "main" => Vec::new(),
        name => name.split('/').map(str::to_owned).collect(),
    }
}

/// The file in which a path ends. The root of the crate lists the rooms and counts as no use.
fn file_of(path: &[String], files: &BTreeMap<Module, &str>) -> Option<Module> {
    (1..=path.len()).rev().map(|length| path[..length].to_vec()).find(|module| files.contains_key(module))
}

/// Everything that is used from here, directly or through others.
fn reached<'a>(from: &Module, uses: &'a BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<&'a Module> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&Module> = uses[from].iter().collect();
    while let Some(module) = open.pop() {
        if found.insert(module) {
            open.extend(&uses[module]);
        }
    }
    found
}

/// The paths that a file names outside its tests, each from the root of the crate.
fn paths(source: &str, own: &Module) -> Vec<Module> {
    let tokens = TokenStream::from_str(source).unwrap_or_else(|error| panic!("not Rust: {error}"));
    let mut found = Vec::new();
    collect(tokens, own, &mut found);
    found
}

fn collect(tokens: TokenStream, own: &Module, found: &mut Vec<Module>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut is_test_item = false;
    for (i, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => {
                if is_punct(&tokens, i.wrapping_sub(1), '#') {
                    is_test_item |= is_cfg_test(group.stream());
                } else if !is_test_item && !is_part_of_path(&tokens, i) {
                    // `mod name { ... }` inside a file is a module of its own.
                    let inner = inline_module(&tokens, i).map(|name| [own.as_slice(), &[name]].concat());
                    collect(group.stream(), inner.as_ref().unwrap_or(own), found);
                }
                if group.delimiter() == Delimiter::Brace {
                    is_test_item = false;
                }
            }
            TokenTree::Ident(ident) => {
                let begins = !(i >= 2 && is_path_separator(&tokens, i - 2));
                if begins && !is_test_item && is_path_separator(&tokens, i + 1) {
                    let from = match ident.to_string().as_str() {
                        "crate" => Vec::new(),
                        "self" => own.clone(),
                        "super" => above(own),
                        child => [own.as_slice(), &[child.to_owned()]].concat(),
                    };
                    follow(&tokens[i + 3..], &from, found);
                }
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => is_test_item = false,
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// Whether a group belongs to a path that was followed already (`a::{b, c}`), or states a visibility (`pub(in a)`).
fn is_part_of_path(tokens: &[TokenTree], i: usize) -> bool {
    i >= 2 && is_path_separator(tokens, i - 2) || is_word(tokens, i.wrapping_sub(1), "pub")
}

fn inline_module(tokens: &[TokenTree], i: usize) -> Option<String> {
    let name = tokens.get(i.wrapping_sub(1)).filter(|_| is_word(tokens, i.wrapping_sub(2), "mod"));
    name.map(ToString::to_string)
}

fn is_word(tokens: &[TokenTree], i: usize, wanted: &str) -> bool {
    matches!(tokens.get(i), Some(TokenTree::Ident(word)) if *word == wanted)
}

/// Follows a path from a module to its ends: one, or one for each part of a group.
fn follow(rest: &[TokenTree], from: &Module, found: &mut Vec<Module>) {
    match rest.first() {
        Some(TokenTree::Ident(word)) => {
            let next = match word.to_string().as_str() {
                "super" => above(from),
                "self" => from.clone(),
                word => [from.as_slice(), &[word.to_owned()]].concat(),
            };
            if is_path_separator(rest, 1) { follow(&rest[3..], &next, found) } else { found.push(next) }
        }
        Some(TokenTree::Group(group)) => parts(group.stream()).iter().for_each(|part| follow(part, from, found)),
        Some(_) => found.push(from.clone()),
        // After the last comma of a group.
        None => {}
    }
}

fn above(module: &Module) -> Module {
    module[..module.len().saturating_sub(1)].to_vec()
}

#[test]
fn files_use_each_other_in_one_direction() {
    for root in ["src", "clients/rust/src"] {
        let sources = files(root, "rs");
        let tests = test_files(&sources);
        let code: Vec<_> = sources.into_iter().filter(|(path, _)| !tests.contains(path)).collect();
        let found = circles(&code);
        assert_none(&found.iter().map(|circle| format!("{}\n", circle.join("\n"))).collect::<Vec<_>>());
    }
}

fn circles_of(sources: &[(&str, &str)]) -> Vec<Vec<String>> {
    let sources: Vec<_> = sources.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    circles(&sources).into_iter().collect()
}

#[test]
fn circle_is_found_through_groups_and_climbs() {
    let a = ("src/a/mod.rs", "mod b; mod c; pub use self::c::C;");
    let b = ("src/a/b.rs", "use super::{c::{C, D}, X};");
    let c = ("src/a/c.rs", "use super::{super::d::D}; fn f() { crate::a::b::g(); }");
    assert_eq!(
        circles_of(&[a, b, c]),
        [[
            "src/a/mod.rs uses src/a/c.rs",
            "src/a/b.rs uses src/a/mod.rs",
            "src/a/b.rs uses src/a/c.rs",
            "src/a/c.rs uses src/a/b.rs"
        ]]
    );
}

#[test]
fn name_that_a_module_file_passes_on_is_a_use_of_it() {
    let a = ("src/a/mod.rs", "mod b; mod c; pub use b::B;");
    let b = ("src/a/b.rs", "pub(in crate::a) struct B; mod table { use super::B; }");
    assert_eq!(circles_of(&[a, b, ("src/a/c.rs", "use super::{b::{B,},};")]), [[""; 0]; 0]);
    let a_that_uses_c = ("src/a/mod.rs", "mod b; mod c; pub use b::B; fn f() { c::g(); }");
    assert_eq!(
        circles_of(&[a_that_uses_c, b, ("src/a/c.rs", "use super::B;")]),
        [["src/a/mod.rs uses src/a/c.rs", "src/a/c.rs uses src/a/mod.rs"]]
    );
}

#[test]
fn tests_may_look_back() {
    let a = ("src/a.rs", "use crate::b::B; #[cfg(test)] mod tests { use super::*; }");
    let b = ("src/b.rs", "#[cfg(test)] use crate::a; #[cfg(test)] mod tests { use crate::a::A; } pub struct B;");
    assert_eq!(circles_of(&[a, b]), [[""; 0]; 0]);
    let b_after_its_tests = ("src/b.rs", "#[cfg(test)] mod tests {} use crate::a::A;");
    assert_eq!(circles_of(&[a, b_after_its_tests]), [["src/a.rs uses src/b.rs", "src/b.rs uses src/a.rs"]]);
}
