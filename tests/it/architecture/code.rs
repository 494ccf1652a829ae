//! Reads Rust source as tokens, to the depth the laws of `architecture` need: which crates and which modules of ours a
//! file names, and which calls it makes, each with its line and whether it stands in test code.
//!
//! Tokens, not lines: comments and texts cannot raise a false alarm, and neither a path inside a macro nor one that
//! climbs to the crate with `super::super::` goes unseen.

use std::str::FromStr as _;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One word of a file, where it stands, and what is beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) line: usize,
    pub(super) what: What,
    /// Inside an item under `#[cfg(test)]`.
    pub(super) in_test: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// A path into a top-level module of this crate, for example `store`; `*` for a glob of the crate.
    Module(String),
    /// The first word of a path, which may be another crate.
    Head(String),
    /// A method call, without what it is called on.
    Method(String),
    /// A macro call.
    Macro(String),
    /// `mod name;` under `#[cfg(test)]`: that whole file is test code.
    TestModule(String),
}

/// Reads a file. `depth` is how deep its module lies: 0 for the crate itself, 1 for `store`, 2 for `postgres::pool`.
pub(super) fn read(source: &str, depth: usize) -> Vec<Finding> {
    let tokens = TokenStream::from_str(source).unwrap_or_else(|error| panic!("not Rust: {error}"));
    let mut reader = Reader { findings: Vec::new() };
    reader.stream(tokens, depth, false);
    reader.findings
}

struct Reader {
    findings: Vec<Finding>,
}

impl Reader {
    fn stream(&mut self, tokens: TokenStream, depth: usize, in_test: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut test_item = in_test;
        let mut depth_of_braces = depth;
        for (i, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Ident(ident) => {
                    let name = ident.to_string();
                    let line = ident.span().start().line;
                    if name == "mod" {
                        depth_of_braces = depth + 1;
                        if let Some(TokenTree::Ident(module)) = tokens.get(i + 1)
                            && test_item
                            && is_punct(&tokens, i + 2, ';')
                        {
                            self.findings.push(Finding { line, what: What::TestModule(module.to_string()), in_test });
                        }
                    }
                    self.word(&tokens, i, &name, line, depth, test_item);
                }
                TokenTree::Group(group) => {
                    let braces = group.delimiter() == Delimiter::Brace;
                    if is_punct(&tokens, i.wrapping_sub(1), '#') && is_cfg_test(group.stream()) {
                        test_item = true;
                    }
                    self.stream(group.stream(), if braces { depth_of_braces } else { depth }, test_item);
                    if braces {
                        (test_item, depth_of_braces) = (in_test, depth);
                    }
                }
                TokenTree::Punct(punct) if punct.as_char() == ';' => (test_item, depth_of_braces) = (in_test, depth),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    fn word(&mut self, tokens: &[TokenTree], i: usize, name: &str, line: usize, depth: usize, in_test: bool) {
        let mut found = |what| self.findings.push(Finding { line, what, in_test });
        if is_punct(tokens, i + 1, '!') {
            found(What::Macro(name.to_owned()));
        }
        let is_call = is_path_separator(tokens, i + 1) || is_arguments(tokens.get(i + 1));
        if is_call && is_punct(tokens, i.wrapping_sub(1), '.') {
            found(What::Method(name.to_owned()));
        }
        let continues = i >= 2 && is_path_separator(tokens, i - 2) && !matches!(name, "super");
        let leads_on = is_path_separator(tokens, i + 1);
        match name {
            "crate" if leads_on => firsts(&tokens[i + 3..]).into_iter().for_each(|module| found(What::Module(module))),
            // The start of a chain of `super`; the others of the chain are counted from here.
            "super" if leads_on && !(i >= 2 && is_path_separator(tokens, i - 2)) => {
                climbs(&tokens[i + 3..], 1, depth).into_iter().for_each(|module| found(What::Module(module)));
            }
            _ if !continues && !is_punct(tokens, i.wrapping_sub(1), '.') => found(What::Head(name.to_owned())),
            _ => {}
        }
    }
}

/// The first words of what follows `crate::`: one, or each of a group.
fn firsts(rest: &[TokenTree]) -> Vec<String> {
    match rest.first() {
        Some(TokenTree::Ident(ident)) => vec![ident.to_string()],
        Some(TokenTree::Punct(star)) if star.as_char() == '*' => vec!["*".to_owned()],
        Some(TokenTree::Group(group)) => parts(group.stream()).iter().flat_map(|part| firsts(part)).collect(),
        _ => Vec::new(),
    }
}

/// The modules reached where `climbed` steps of `super::` have been taken from a module at `depth`.
fn climbs(rest: &[TokenTree], climbed: usize, depth: usize) -> Vec<String> {
    match rest.first() {
        Some(TokenTree::Ident(ident)) if *ident == "super" => {
            climbs(rest.get(3..).unwrap_or_default(), climbed + 1, depth)
        }
        Some(TokenTree::Group(group)) => {
            parts(group.stream()).iter().flat_map(|part| climbs(part, climbed, depth)).collect()
        }
        _ if climbed >= depth => firsts(rest),
        _ => Vec::new(),
    }
}

/// The parts of a group, split at its commas.
pub(super) fn parts(group: TokenStream) -> Vec<Vec<TokenTree>> {
    let tokens: Vec<TokenTree> = group.into_iter().collect();
    tokens
        .split(|token| matches!(token, TokenTree::Punct(comma) if comma.as_char() == ','))
        .map(<[_]>::to_vec)
        .collect()
}

pub(super) fn is_punct(tokens: &[TokenTree], i: usize, wanted: char) -> bool {
    matches!(tokens.get(i), Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn is_arguments(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis)
}

pub(super) fn is_path_separator(tokens: &[TokenTree], i: usize) -> bool {
    is_punct(tokens, i, ':') && is_punct(tokens, i + 1, ':')
}

pub(super) fn is_cfg_test(attribute: TokenStream) -> bool {
    attribute.to_string().replace(' ', "") == "cfg(test)"
}

fn modules(source: &str, depth: usize) -> Vec<String> {
    let named = read(source, depth).into_iter().filter_map(|finding| match finding.what {
        What::Module(module) => Some(module),
        _ => None,
    });
    named.collect()
}

#[test]
fn modules_are_seen_in_every_form_of_a_path() {
    assert_eq!(
        modules("use crate::store; use crate::{view::{View, X}, model::Y as Z};", 1),
        ["store", "view", "model"]
    );
    assert_eq!(
        modules("fn f() { crate::feed::run(); info!(error = %crate::telemetry::chain(e)); }", 1),
        ["feed", "telemetry"]
    );
    assert_eq!(modules("use crate::*;", 1), ["*"]);
    assert_eq!(modules("// crate::store\n/// crate::store\nconst A: &str = \"crate::store\";", 1), [""; 0]);
    assert_eq!(modules("pub(crate) fn f() {} pub(in crate::store) fn g() {}", 1), ["store"]);
}

#[test]
fn modules_are_seen_where_super_climbs_to_the_crate() {
    assert_eq!(modules("use super::store::Pool;", 1), ["store"]);
    assert_eq!(modules("use super::pool::Pool;", 2), [""; 0]);
    assert_eq!(modules("use super::super::view::View;", 2), ["view"]);
    assert_eq!(modules("use super::{pool, super::{view, feed}};", 2), ["view", "feed"]);
    assert_eq!(modules("mod inner { use super::x; use super::super::view; }", 1), ["view"]);
    assert_eq!(modules("mod tests { use super::*; } use super::view;", 1), ["view"]);
}

#[test]
fn test_code_ends_where_its_item_ends() {
    let source = "#[cfg(test)]\nmod tests { fn f() { a.unwrap(); } }\nfn g() { b.unwrap(); }\n#[cfg(test)] use x;\nfn h() { c.unwrap(); }";
    let unwraps: Vec<_> = read(source, 1)
        .into_iter()
        .filter(|finding| finding.what == What::Method("unwrap".into()))
        .map(|finding| (finding.line, finding.in_test))
        .collect();
    assert_eq!(unwraps, [(2, true), (3, false), (5, false)]);
}
