//! Reads out of a PromQL expression what it asks for: metrics with their matchers, and the labels it groups by.
//!
//! Not a parser: whether an expression is right, promtool and Prometheus say. This finds names in one that is.

use std::{collections::BTreeSet, iter::Peekable, vec::IntoIter};

/// One selector: a metric, and what its labels must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selector {
    pub(super) metric: String,
    /// Label, operator, value.
    pub(super) matchers: Vec<(String, String, String)>,
}

/// What an expression asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) selectors: Vec<Selector>,
    /// Labels of `by`, `on` and their like.
    pub(super) grouping: BTreeSet<String>,
}

const GROUPING: &[&str] = &["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Words that stand without parentheses, and aggregations, which `by` may follow.
const WORDS: &[&str] = &["and", "or", "unless", "bool", "offset", "sum", "max", "min", "avg", "count", "topk"];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(String),
}

type Tokens = Peekable<IntoIter<Token>>;

/// Reads an expression.
pub(super) fn read(expression: &str) -> Asked {
    let mut tokens = tokens(expression).into_iter().peekable();
    let mut asked = Asked::default();
    while let Some(token) = tokens.next() {
        let Token::Word(word) = token else { continue };
        let opens = |sign: &str, tokens: &mut Tokens| tokens.next_if_eq(&Token::Sign(sign.to_owned())).is_some();
        if GROUPING.contains(&word.as_str()) {
            if opens("(", &mut tokens) {
                asked.grouping.extend(until(")", &mut tokens).into_iter().filter_map(|token| match token {
                    Token::Word(label) => Some(label),
                    _ => None,
                }));
            }
        } else if !WORDS.contains(&word.as_str()) && tokens.peek() != Some(&Token::Sign("(".to_owned())) {
            let inside = if opens("{", &mut tokens) { until("}", &mut tokens) } else { Vec::new() };
            asked.selectors.push(Selector { metric: word, matchers: matchers(&inside) });
        }
    }
    asked
}

fn until(end: &str, tokens: &mut Tokens) -> Vec<Token> {
    tokens.take_while(|token| *token != Token::Sign(end.to_owned())).collect()
}

fn matchers(tokens: &[Token]) -> Vec<(String, String, String)> {
    let read = |matcher: &[Token]| match matcher {
        [Token::Word(label), Token::Sign(operator), Token::Text(value)] => {
            (label.clone(), operator.clone(), value.clone())
        }
        other => panic!("not a matcher: {other:?}"),
    };
    let matchers = tokens.split(|token| *token == Token::Sign(",".to_owned()));
    matchers.filter(|matcher| !matcher.is_empty()).map(read).collect()
}

fn tokens(expression: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => rest[1..].find('"').unwrap() + 2,
            '[' => rest.find(']').unwrap() + 1,
            'a'..='z' | 'A'..='Z' | '_' | ':' | '0'..='9' => {
                rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_:.".contains(c))).unwrap_or(rest.len())
            }
            '=' | '!' | '>' | '<' if rest[1..].starts_with(['=', '~']) => 2,
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        rest = after;
        match first {
            '"' => tokens.push(Token::Text(token.trim_matches('"').to_owned())),
            // Numbers, durations and ranges ask for nothing.
            '[' | '0'..='9' => {}
            'a'..='z' | 'A'..='Z' | '_' | ':' => tokens.push(Token::Word(token.to_owned())),
            _ if first.is_whitespace() => {}
            _ => tokens.push(Token::Sign(token.to_owned())),
        }
    }
    tokens
}

#[test]
fn metrics_matchers_and_grouping_labels_are_found() {
    let asked = read(
        r#"histogram_quantile(0.99, sum by (job, le) (rate(a_bucket{x="1", y=~"b|c"}[5m]))) > 2e3
           and on (job) job:b:max{z!="q(r)"} offset 5m == 0 or sum without (w) (c)"#,
    );
    let selector = |metric: &str, matchers: &[(&str, &str, &str)]| Selector {
        metric: metric.to_owned(),
        matchers: matchers.iter().map(|(l, o, v)| ((*l).to_owned(), (*o).to_owned(), (*v).to_owned())).collect(),
    };
    assert_eq!(
        asked.selectors,
        [
            selector("a_bucket", &[("x", "=", "1"), ("y", "=~", "b|c")]),
            selector("job:b:max", &[("z", "!=", "q(r)")]),
            selector("c", &[]),
        ]
    );
    assert_eq!(asked.grouping.iter().map(String::as_str).collect::<Vec<_>>(), ["job", "le", "w"]);
}
