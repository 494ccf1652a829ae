//! What a check has found: how it stands, in a line, and what to do about it.

use serde_json::{Value, json};

use crate::{
    cli::{output::escape, paint},
    model::wellness::Wellness,
};

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cli) enum Level {
    /// As it should be.
    Ok,
    /// It works, and somebody should know.
    Warn,
    /// It does not work.
    Fail,
}

impl Level {
    /// In one word.
    pub(in crate::cli) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }

    fn painted(self) -> String {
        // Filled up before it is painted: what colours it takes no room.
        let text = format!("{:<4}", self.word());
        let style = match self {
            Self::Ok => paint::GOOD,
            Self::Warn => paint::DOUBTFUL,
            Self::Fail => paint::BAD,
        };
        if paint::is_on() { paint::paint(&text, style) } else { text }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Finding {
    /// How it stands.
    pub(in crate::cli) level: Level,
    /// What was looked at, in one word.
    pub(in crate::cli) check: &'static str,
    /// What was found, in a line.
    pub(in crate::cli) found: String,
    /// What to do about it; empty if nothing.
    pub(in crate::cli) fix: String,
}

impl From<Wellness> for Level {
    fn from(wellness: Wellness) -> Self {
        match wellness {
            Wellness::Well => Self::Ok,
            Wellness::Attention => Self::Warn,
            Wellness::Trouble => Self::Fail,
        }
    }
}

impl Finding {
    /// As well as it is; what is well needs no fix.
    pub(in crate::cli) fn of(wellness: Wellness, check: &'static str, found: impl Into<String>, fix: &str) -> Self {
        let fix = if wellness == Wellness::Well { "" } else { fix };
        Self { level: wellness.into(), check, found: found.into(), fix: fix.to_owned() }
    }

    /// All is well.
    pub(in crate::cli) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, check, found: found.into(), fix: String::new() }
    }

    /// The same, where a failure of it alone is tolerable.
    pub(in crate::cli) fn at_most_a_warning(self) -> Self {
        Self { level: self.level.min(Level::Warn), ..self }
    }

    /// Somebody should know.
    pub(in crate::cli) fn warn(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Warn, check, found: found.into(), fix: fix.into() }
    }

    /// It does not work.
    pub(in crate::cli) fn fail(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Fail, check, found: found.into(), fix: fix.into() }
    }

    /// A line, and one for the fix if there is one.
    pub(in crate::cli) fn lines(&self) -> String {
        let mut text = format!("{}  {:<11}  {}\n", self.level.painted(), self.check, escape(&self.found));
        if !self.fix.is_empty() {
            text.push_str(&format!("      {:<11}  fix: {}\n", "", escape(&self.fix)));
        }
        text
    }

    /// For programs.
    pub(in crate::cli) fn json(&self) -> Value {
        json!({ "check": self.check, "level": self.level.word(), "found": self.found, "fix": self.fix })
    }
}

/// The worst there is.
pub(in crate::cli) fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_with_its_fix_below() {
        let finding = Finding::fail("flush", "late\nby 3 s", "look at the disk");
        let lines = format!("fail  flush        late\\nby 3 s\n{:19}fix: look at the disk\n", "");
        assert_eq!(finding.lines(), lines);
        assert_eq!(Finding::ok("flush", "in time").lines(), "ok    flush        in time\n");
        assert_eq!(worst(&[Finding::ok("a", ""), finding, Finding::warn("b", "", "")]), Level::Fail);
        assert_eq!(worst(&[]), Level::Ok);
    }
}
