//! The policy file: TOML, a table `[[rule]]` for each rule, and a table `[[issuer]]` for each issuer of JSON web tokens.
//!
//! ```toml
//! [[rule]]
//! who = ["spiffe://prod/ns/organs/sa/{sa}"]
//! may = ["register", "resolve"]
//! on  = ["{sa}", "{sa}_*"]
//! ```
//!
//! What is not understood, or has no effect, is an error: a rule that its author believes in must be in force.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    issuer,
    pattern::{On, Who},
    rule::{PolicyError, Rule},
    source::Source,
};
use crate::{
    jwt::Issuer,
    model::TextPosition,
    rights::{Verb, addresses::Addresses, quota::Raised},
};

/// The longest policy file, in bytes.
pub(super) const FILE_MAX_BYTES: usize = 4 << 20;

/// The keys of a rule.
const KEYS: [&str; 5] = ["who", "may", "on", "addresses", "limits"];
/// The keys of its limits.
const LIMITS: [&str; 4] = ["records", "registrations", "watches", "connections"];
/// The highest limit that can be set.
const LIMIT_MAX: u64 = 100_000_000;
/// The highest rate.
const RATE_MAX: u64 = 1_000_000;

/// A string of an array, and where it stands.
struct Word {
    at: usize,
    text: String,
}

/// What a policy file says.
pub(super) struct Contents {
    pub(super) rules: Vec<Rule>,
    pub(super) issuers: Vec<Issuer>,
    pub(super) transport: Vec<Who>,
}

/// Reads a policy file.
pub(super) fn read(text: &str) -> Result<Contents, PolicyError> {
    let source = Source(text);
    if text.len() > FILE_MAX_BYTES {
        return source
            .refuse(0, format!("the policy is longer than {} MiB; split names from rules", FILE_MAX_BYTES >> 20));
    }
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let at = error.span().map_or(text.len(), |span| span.start);
            return source.refuse(at, format!("{}; write TOML", error.message().replace('\n', " ")));
        }
    };
    let transport = transport(&source, table.get_ref())?;
    let (mut rules, mut issuers) = (Vec::new(), Vec::new());
    for (key, value) in table.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("rule", DeValue::Array(tables)) => {
                for table in tables.iter() {
                    rules.push(rule(&source, table, &transport)?);
                }
            }
            ("issuer", DeValue::Array(tables)) => {
                for table in tables.iter() {
                    issuers.push(issuer::read(&source, table, &issuers)?);
                }
            }
            ("transport", _) => {}
            (name @ ("rule" | "issuer"), _) => {
                return source.refuse(key.span().start, format!("{name} is not a table of its own; write [[{name}]]"));
            }
            (other, _) => {
                let what = format!("unknown key {other:?}; a policy has transport and tables [[rule]] and [[issuer]]");
                return source.refuse(key.span().start, what);
            }
        }
    }
    if rules.is_empty() {
        return source
            .refuse(0, "there is no rule, so nothing would be allowed; write a [[rule]] with who, may and on");
    }
    Ok(Contents { rules, issuers, transport })
}

/// The certificates that only carry calls.
fn transport(source: &Source<'_>, table: &DeTable<'_>) -> Result<Vec<Who>, PolicyError> {
    let Some((key, value)) = table.get_key_value("transport") else { return Ok(Vec::new()) };
    let words = array(source, "transport", key.span(), value)?;
    let read = |text: &str| match Who::parse(text)? {
        who if who.is_of_certificates() => Ok(who),
        _ => Err(format!("{text:?} is of no certificate, and only certificates carry calls; remove it")),
    };
    Ok(each(source, &words, read)?.into_iter().map(|(_, who)| who).collect())
}

fn rule(source: &Source<'_>, table: &Spanned<DeValue<'_>>, transport: &[Who]) -> Result<Rule, PolicyError> {
    let DeValue::Table(fields) = table.get_ref() else {
        return source.refuse(table.span().start, "rule is not a table of its own; write [[rule]]");
    };
    let at = table.span().start;
    let (mut who, mut may, mut on, mut places, mut limits) = (None, None, None, None, Raised::default());
    for (key, value) in fields {
        let words = match key.get_ref().as_ref() {
            "who" => &mut who,
            "may" => &mut may,
            "on" => &mut on,
            "addresses" => &mut places,
            "limits" => {
                limits = raised(source, value)?;
                continue;
            }
            other => {
                let what = format!("unknown key {other:?}; a rule has {}", KEYS.join(", "));
                return source.refuse(key.span().start, what);
            }
        };
        *words = Some(array(source, key.get_ref(), key.span(), value)?);
    }
    let Some(who) = who else { return source.refuse(at, "the rule has no who; say whom it is for") };
    let Some(may) = may else { return source.refuse(at, "the rule has no may; say what it grants") };
    let who = each(source, &who, Who::parse)?;
    if let Some((word, _)) = who.iter().find(|(_, who)| transport.iter().any(|carrier| carrier.covers(who, false))) {
        let what = format!("{:?} is among transport, which has no rights; remove it there or here", word.text);
        return source.refuse(word.at, what);
    }
    let verbs = each(source, &may, verb)?;
    let addresses = addresses(source, &verbs, places)?;
    let on = names(source, at, &verbs, on)?;
    for (word, on) in &on {
        for slot in on.slots() {
            if let Some((other, _)) = who.iter().find(|(_, who)| !who.has_slot(slot)) {
                let what = format!(
                    "{:?} in who does not say what {{{slot}}} is; use it there, or give it a rule of its own",
                    other.text
                );
                return source.refuse(word.at, what);
            }
        }
    }
    Ok(Rule {
        at: TextPosition::of(source.0, at),
        who: who.into_iter().map(|(_, who)| who).collect(),
        may: verbs.into_iter().map(|(_, verb)| verb).collect(),
        on: on.into_iter().map(|(_, on)| on).collect(),
        addresses,
        limits,
    })
}

/// The addresses of a rule, which is about registrations then.
fn addresses(
    source: &Source<'_>,
    verbs: &[(&Word, Verb)],
    words: Option<Vec<Word>>,
) -> Result<Vec<Addresses>, PolicyError> {
    let words = words.unwrap_or_default();
    match words.first() {
        Some(first) if !verbs.iter().any(|(_, verb)| *verb == Verb::Register) => {
            source.refuse(first.at, "the rule does not grant register, which addresses limit; leave addresses out")
        }
        _ => Ok(each(source, &words, str::parse)?.into_iter().map(|(_, address)| address).collect()),
    }
}

/// The limits of a rule: a table of counts, and a rate.
fn raised(source: &Source<'_>, value: &Spanned<DeValue<'_>>) -> Result<Raised, PolicyError> {
    let DeValue::Table(fields) = value.get_ref() else {
        return source.refuse(value.span().start, "limits is not a table; write limits = { records = 500 }");
    };
    let mut raised = Raised::default();
    for (key, value) in fields {
        let at = value.span().start;
        let key = key.get_ref().as_ref();
        let limit = match (key, value.get_ref()) {
            ("registrations", DeValue::String(text)) => {
                text.strip_suffix("/s").and_then(|count| count.parse().ok()).filter(|rate| *rate <= RATE_MAX)
            }
            ("records" | "watches" | "connections", DeValue::Integer(number)) => {
                u64::from_str_radix(number.as_str(), number.radix()).ok().filter(|limit| *limit <= LIMIT_MAX)
            }
            _ => None,
        };
        // A limit of nothing is a verb that is not granted.
        let limit = limit.filter(|limit| *limit > 0);
        let small = limit.and_then(|limit| u32::try_from(limit).ok());
        match (key, limit) {
            ("records", Some(_)) => raised.records = limit,
            ("registrations", Some(_)) => raised.registrations = small,
            ("watches", Some(_)) => raised.watches = small,
            ("connections", Some(_)) => raised.connections = small,
            ("registrations", None) => {
                let what = format!("registrations is no rate; write a text such as \"20/s\", at most {RATE_MAX}/s");
                return source.refuse(at, what);
            }
            ("records" | "watches" | "connections", None) => {
                return source.refuse(at, format!("{key} is no count; write a number from 1 to {LIMIT_MAX}"));
            }
            (other, _) => {
                return source.refuse(at, format!("unknown limit {other:?}; limits are {}", LIMITS.join(", ")));
            }
        }
    }
    if raised == Raised::default() {
        return source.refuse(value.span().start, "limits is empty, so it has no effect; fill it in, or remove it");
    }
    Ok(raised)
}

/// The logical ids of a rule, which fit its verbs.
fn names(
    source: &Source<'_>,
    at: usize,
    verbs: &[(&Word, Verb)],
    on: Option<Vec<Word>>,
) -> Result<Vec<(Word, On)>, PolicyError> {
    let named = verbs.iter().find(|(_, verb)| verb.has_names());
    let on = match (on, named) {
        (None, Some((_, verb))) => {
            return source
                .refuse(at, format!("the rule has no on; say on which logical ids it grants {verb}, or on = [\"*\"]"));
        }
        (None, None) => return Ok(Vec::new()),
        (Some(on), None) => {
            let first = on.first().map_or(at, |word| word.at);
            return source.refuse(first, "metrics is about no logical id; leave on out");
        }
        (Some(on), Some(_)) => on,
    };
    let mut read: Vec<(Word, On)> = Vec::new();
    for word in on {
        let parsed = match On::parse(&word.text) {
            Ok(parsed) => parsed,
            Err(what) => return source.refuse(word.at, what),
        };
        if let Some((_, written)) = read.iter().find(|(_, other)| other.covers(&parsed)) {
            return source
                .refuse(word.at, format!("{:?} is among {:?} already; remove it", word.text, written.written()));
        }
        if let Some((other, _)) = read.iter().find(|(_, other)| parsed.covers(other)) {
            return source.refuse(other.at, format!("{:?} is among {:?} already; remove it", other.text, word.text));
        }
        read.push((word, parsed));
    }
    let is_everywhere = read.iter().any(|(_, on)| on.is_everything());
    match verbs.iter().find(|(_, verb)| *verb == Verb::Cluster) {
        Some((word, _)) if !is_everywhere => {
            source.refuse(word.at, "cluster concerns every instance; give it a rule of its own with on = [\"*\"]")
        }
        _ => Ok(read),
    }
}

fn verb(text: &str) -> Result<Verb, String> {
    let verbs = || Verb::ALL.map(Verb::as_str).join(", ");
    Verb::from_word(text).ok_or_else(|| format!("{text:?} is no verb; use one of {}", verbs()))
}

/// The strings of an array, none of them twice.
fn array(
    source: &Source<'_>,
    key: &str,
    key_at: Range<usize>,
    value: &Spanned<DeValue<'_>>,
) -> Result<Vec<Word>, PolicyError> {
    let DeValue::Array(values) = value.get_ref() else {
        return source.refuse(value.span().start, format!("{key} is not an array; write {key} = [\"...\"]"));
    };
    let mut words: Vec<Word> = Vec::new();
    for value in values.iter() {
        let (DeValue::String(text), at) = (value.get_ref(), value.span().start) else {
            return source
                .refuse(value.span().start, format!("{key} has a value that is not a text; write it in quotes"));
        };
        if words.iter().any(|word| word.text == **text) {
            return source.refuse(at, format!("{text:?} is there twice; remove one"));
        }
        words.push(Word { at, text: text.to_string() });
    }
    if words.is_empty() {
        return source.refuse(
            key_at.start,
            format!("{key} is empty, so the rule has no effect; fill it in, or remove the rule"),
        );
    }
    Ok(words)
}

/// Reads each word, and keeps where it stands.
fn each<'a, T>(
    source: &Source<'_>,
    words: &'a [Word],
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<(&'a Word, T)>, PolicyError> {
    words
        .iter()
        .map(|word| read(&word.text).map(|value| (word, value)).or_else(|what| source.refuse(word.at, what)))
        .collect()
}
