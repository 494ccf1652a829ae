//! What a check has found: its severity, in a line, and what to do about it.

use std::borrow::Cow;

use musterd_client::Problem;
use serde_json::{Value, json};

use crate::{
    status::Severity,
    terminal::{output::escape, paint},
};

/// The severity of an answer; a value that this command does not know is a problem.
pub(crate) fn severity(severity: musterd_client::Severity) -> Severity {
    match severity {
        musterd_client::Severity::Ok => Severity::Ok,
        musterd_client::Severity::Critical => Severity::Critical,
        _ => Severity::Warning,
    }
}

/// A severity in its colour, as wide as the widest.
pub(crate) fn painted(severity: Severity) -> String {
    // Filled up before it is painted: what colours it takes no room.
    let text = format!("{:<8}", severity.as_str());
    if paint::is_on() { paint::paint(&text, style(severity)) } else { text }
}

/// The colour of a severity.
pub(crate) fn style(severity: Severity) -> anstyle::Style {
    match severity {
        Severity::Ok => paint::GOOD,
        Severity::Warning => paint::DOUBTFUL,
        Severity::Critical => paint::BAD,
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// How severe it is.
    pub(crate) severity: Severity,
    /// What was checked, in one word; of a problem that the daemon reports, its code.
    pub(crate) check: Cow<'static, str>,
    /// What was found, in a line.
    pub(crate) found: String,
    /// What to do about it; empty if nothing.
    pub(crate) fix: String,
    /// Whether it follows from the finding above it.
    pub(crate) is_consequence: bool,
}

impl Finding {
    /// A problem that the daemon reports.
    pub(crate) fn problem(problem: &Problem) -> Self {
        let mut fix = problem.action.clone();
        if !problem.command.is_empty() {
            fix.push_str(&format!(" Command: {}", problem.command));
        }
        Self {
            severity: severity(problem.severity),
            check: problem.code.clone().into(),
            found: problem.summary.clone(),
            fix,
            is_consequence: !problem.cause.is_empty(),
        }
    }

    fn new(severity: Severity, check: &'static str, found: String, fix: String) -> Self {
        Self { severity, check: check.into(), found, fix, is_consequence: false }
    }

    /// Nothing is wrong.
    pub(crate) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(Severity::Ok, check, found.into(), String::new())
    }

    /// The same, where a failure of it alone is tolerable.
    pub(crate) fn at_most_a_warning(self) -> Self {
        Self { severity: self.severity.min(Severity::Warning), ..self }
    }

    /// It works; an operator should look at it.
    pub(crate) fn warn(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Severity::Warning, check, found.into(), fix.into())
    }

    /// It does not work.
    pub(crate) fn fail(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Severity::Critical, check, found.into(), fix.into())
    }

    /// A line, and one for the fix if there is one. A consequence is indented, and its fix is that of its cause.
    pub(crate) fn lines(&self) -> String {
        let indent = if self.is_consequence { "  " } else { "" };
        let found = escape(&self.found);
        let mut text = format!("{indent}{}  {:<15}  {found}\n", painted(self.severity), escape(&self.check));
        if !self.fix.is_empty() && !self.is_consequence {
            text.push_str(&format!("{:27}fix: {}\n", "", escape(&self.fix)));
        }
        text
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        json!({ "check": self.check, "severity": self.severity.as_str(), "found": self.found, "fix": self.fix })
    }
}

/// The most severe there is.
pub(crate) fn worst(findings: &[Finding]) -> Severity {
    findings.iter().map(|finding| finding.severity).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_is_a_line_with_its_fix_below() {
        let finding = Finding::fail("flush", "late\nby 3 s", "look at the disk");
        let lines = format!("critical  flush            late\\nby 3 s\n{:27}fix: look at the disk\n", "");
        assert_eq!(finding.lines(), lines);
        assert_eq!(Finding::ok("flush", "in time").lines(), "ok        flush            in time\n");
        assert_eq!(worst(&[Finding::ok("a", ""), finding, Finding::warn("b", "", "")]), Severity::Critical);
        assert_eq!(worst(&[]), Severity::Ok);
    }

    #[test]
    fn problem_keeps_its_severity_and_command_and_consequence_is_indented() {
        let mut problem = Problem::default();
        (problem.code, problem.severity) = ("beats_not_saved".into(), musterd_client::Severity::Critical);
        (problem.summary, problem.action) = ("late".into(), "Look.".into());
        problem.command = "musterd release".into();
        let finding = Finding::problem(&problem);
        assert_eq!((finding.severity, finding.fix.as_str()), (Severity::Critical, "Look. Command: musterd release"));
        problem.cause = "database_away".into();
        assert_eq!(Finding::problem(&problem).lines(), "  critical  beats_not_saved  late\n");
    }
}
