//! Gathers one value per round and prints medians beside what is to be reached, as a table for the README.

use std::{collections::BTreeMap, fmt::Write as _};

/// Values by name.
#[derive(Debug, Default)]
pub(crate) struct Table(BTreeMap<String, Vec<f64>>);

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    what: &'static str,
    value: &'static str,
    reach: Reach,
}

#[derive(Clone, Debug)]
enum Reach {
    /// This share of another value.
    Ratio {
        to: &'static str,
        other: &'static str,
        at_least: f64,
    },
    AtLeast(f64),
    AtMost(Option<f64>),
}

impl Goal {
    pub(crate) fn ratio(
        what: &'static str,
        value: &'static str,
        (to, other): (&'static str, &'static str),
        at_least: f64,
    ) -> Self {
        Self { what, value, reach: Reach::Ratio { to, other, at_least } }
    }

    pub(crate) fn at_least(what: &'static str, value: &'static str, least: f64) -> Self {
        Self { what, value, reach: Reach::AtLeast(least) }
    }

    pub(crate) fn at_most(what: &'static str, value: &'static str, most: Option<f64>) -> Self {
        Self { what, value, reach: Reach::AtMost(most) }
    }
}

impl Table {
    /// Adds the value of a round.
    pub(crate) fn add(&mut self, name: &str, value: f64) {
        self.0.entry(name.to_owned()).or_default().push(value);
    }

    fn median(&self, name: &str) -> f64 {
        median(self.0.get(name).map(Vec::as_slice).unwrap_or_default())
    }

    /// The median of the ratios of each round: what slowed a round slowed both.
    fn median_ratio(&self, name: &str, other: &str) -> f64 {
        let (Some(values), Some(others)) = (self.0.get(name), self.0.get(other)) else { return f64::NAN };
        median(&values.iter().zip(others).map(|(value, other)| value / other).collect::<Vec<_>>())
    }

    fn range(&self, name: &str) -> String {
        let values = self.0.get(name).map(Vec::as_slice).unwrap_or_default();
        let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
        format!("{} to {}", shown(low), shown(high))
    }

    /// The whole as Markdown, and all other values below it.
    pub(crate) fn text(&self, goals: &[Goal]) -> String {
        let mut text =
            "| what | value | range | compared with | ratio | reach | reached |\n|---|---|---|---|---|---|---|\n"
                .to_owned();
        for goal in goals.iter().filter(|goal| self.0.contains_key(goal.value)) {
            let value = self.median(goal.value);
            let (compared, ratio, reach, reached) = match goal.reach {
                Reach::Ratio { to, other, at_least } => {
                    let ratio = self.median_ratio(goal.value, other);
                    let compared = format!("{to} {}", shown(self.median(other)));
                    (compared, format!("{ratio:.2}"), format!("{at_least:.2}"), ratio >= at_least)
                }
                Reach::AtLeast(least) => ("-".into(), format!("{:.2}", value / least), shown(least), value >= least),
                Reach::AtMost(None) => ("-".into(), "-".into(), "-".into(), true),
                Reach::AtMost(Some(most)) => {
                    ("-".into(), format!("{:.2}", value / most), format!("under {}", shown(most)), value < most)
                }
            };
            let range = self.range(goal.value);
            let reached = if reached { "yes" } else { "**no**" };
            let _ = writeln!(
                text,
                "| {} | {} | {range} | {compared} | {ratio} | {reach} | {reached} |",
                goal.what,
                shown(value)
            );
        }
        text.push_str("\nAll medians:\n");
        for name in self.0.keys() {
            let _ = writeln!(text, "  {name}: {} ({})", shown(self.median(name)), self.range(name));
        }
        text
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

/// `12.3`, `1,234`, `1,234,567`.
fn shown(value: f64) -> String {
    if value < 1_000.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
