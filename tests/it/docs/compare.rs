//! Whether a command printed what its page shows.
//!
//! Text must be equal but for the width of columns. What differs at every run is compared by its kind: times, spans of
//! time, fractions. What differs and is meant (UUIDs, process ids, any number from 100) must do so in the same way
//! everywhere on the page: one that is shown twice is one thing, and a command that names it gets the real one. A line
//! `...` stands for any lines.

use std::collections::HashMap;

/// What the ids of a page stand for in this run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bindings {
    seen: HashMap<String, String>,
    shown: HashMap<String, String>,
}

impl Bindings {
    fn bind(&mut self, shown: &str, seen: &str) -> bool {
        let first = self.seen.entry(shown.to_owned()).or_insert_with(|| seen.to_owned());
        let back = self.shown.entry(seen.to_owned()).or_insert_with(|| shown.to_owned());
        first == seen && back == shown
    }

    /// A command with the ids of this run in the place of those that the page shows.
    pub(crate) fn translate(&self, command: &str) -> String {
        let real = |piece: &str| self.seen.get(piece).cloned().unwrap_or_else(|| piece.to_owned());
        pieces(command).into_iter().map(real).collect()
    }
}

/// Compares what a page shows with what was seen.
///
/// # Errors
/// The first line that is different.
pub(crate) fn compare(shown: &[String], seen: &str, known: &Bindings) -> Result<Bindings, String> {
    let shown: Vec<_> = shown.iter().map(|line| collapse(line)).collect();
    let seen: Vec<_> = seen.lines().map(collapse).collect();
    let trimmed = |lines: &[String]| lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
    lines(&shown[..trimmed(&shown)], &seen[..trimmed(&seen)], known)
}

fn lines(shown: &[String], seen: &[String], known: &Bindings) -> Result<Bindings, String> {
    match (shown, seen) {
        ([], []) => Ok(known.clone()),
        ([any, rest @ ..], _) if any == "..." => {
            let ends = (0..=seen.len()).map(|skipped| lines(rest, &seen[skipped..], known));
            ends.reduce(|first, second| first.or(second)).unwrap_or_else(|| Ok(known.clone()))
        }
        ([], [more, ..]) => Err(format!("also printed: {more}")),
        ([missing, ..], []) => Err(format!("not printed: {missing}")),
        ([first_shown, shown @ ..], [first_seen, seen @ ..]) => {
            let mut bindings = known.clone();
            if !line(first_shown, first_seen, &mut bindings) {
                return Err(format!("shown:   {first_shown}\nprinted: {first_seen}"));
            }
            lines(shown, seen, &bindings)
        }
    }
}

fn collapse(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn line(shown: &str, seen: &str, bindings: &mut Bindings) -> bool {
    let (shown, seen) = (pieces(shown), pieces(seen));
    shown.len() == seen.len() && shown.iter().zip(seen).all(|(shown, seen)| piece(shown, seen, bindings))
}

fn piece(shown: &str, seen: &str, bindings: &mut Bindings) -> bool {
    match (kind(shown), kind(seen)) {
        (Kind::Id, Kind::Id) => bindings.bind(shown, seen),
        (Kind::Text, Kind::Text) => shown == seen,
        (of_shown, of_seen) => of_shown == of_seen,
    }
}

/// Words, and what is between them.
fn pieces(text: &str) -> Vec<&str> {
    let is_word = |character: char| character.is_alphanumeric() || "_-.:+".contains(character);
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|character| is_word(character) != is_word(first)).unwrap_or(rest.len());
        // What ends a sentence is no part of its last word.
        let end = Some(rest[..end].trim_end_matches([':', '.']).len()).filter(|end| *end > 0).unwrap_or(end);
        let (piece, after) = rest.split_at(end);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

#[derive(PartialEq, Eq)]
enum Kind {
    Id,
    Time,
    Span,
    Fraction,
    Text,
}

fn kind(piece: &str) -> Kind {
    let number = piece.trim_end_matches(char::is_alphabetic);
    let unit = &piece[number.len()..];
    let is_number = number.parse::<f64>().is_ok() && number.starts_with(|first: char| first.is_ascii_digit());
    if uuid::Uuid::try_parse(piece).is_ok() || piece.parse::<u64>().is_ok_and(|number| number >= 100) {
        Kind::Id
    } else if piece.len() > 10 && chrono::DateTime::parse_from_rfc3339(piece).is_ok() {
        Kind::Time
    } else if is_number && matches!(unit, "ns" | "us" | "µs" | "ms" | "s" | "m" | "h") {
        Kind::Span
    } else if is_number && unit.is_empty() && number.matches('.').count() == 1 {
        Kind::Fraction
    } else {
        Kind::Text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "b1e2218a-0bec-4b51-8474-015e15bb3479";
    const OTHER: &str = "ef8b6c47-7ce5-486c-8cc1-fbdf9ab94e0e";

    fn agree(shown: &str, seen: &str) -> bool {
        let shown: Vec<_> = shown.lines().map(str::to_owned).collect();
        compare(&shown, seen, &Bindings::default()).is_ok()
    }

    #[test]
    fn values_that_vary_between_runs_may_differ() {
        assert!(agree("alive  10.0.0.5:8000  718 2.7s", "alive 10.0.0.5:8000   60001   3s\n"));
        assert!(agree("at 2026-11-20T10:51:51.057436Z: 0.25", "at 2027-01-01T00:00:00Z: 12.5"));
        assert!(agree("a\n...\nz", "a\nb\nc\nz") && agree("a\n...\nz", "a\nz"));
    }

    #[test]
    fn fixed_output_must_be_equal() {
        assert!(!agree("alive", "dead") && !agree("lease 2", "lease 3") && !agree("2.7s", "never"));
        assert!(!agree("a", "a\nb") && !agree("a\nb", "a") && !agree("a\n...\nz", "a\nb"));
        assert!(agree(&format!("{ONE} {ONE}"), &format!("{OTHER} {OTHER}")));
        assert!(!agree(&format!("{ONE} {ONE}"), &format!("{ONE} {OTHER}")));
        assert!(!agree(&format!("{ONE} {OTHER}"), &format!("{ONE} {ONE}")));
    }

    #[test]
    fn commands_get_the_ids_of_this_run() {
        let shown = [format!("{ONE} 718")];
        let bindings = compare(&shown, &format!("{OTHER} 60001"), &Bindings::default()).unwrap();
        assert_eq!(bindings.translate(&format!("kill -9 718; a={ONE} 7")), format!("kill -9 60001; a={OTHER} 7"));
    }
}
