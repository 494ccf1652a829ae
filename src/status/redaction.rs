//! What a caller is told that may not know how many instances there are, or of which logical ids. Both ports ask here.

use super::{
    judge::Status,
    problem::{Code, Problem},
};

impl Status {
    /// Without the problems of logical ids, and without the numbers of instances and records in the others.
    #[must_use]
    pub fn without_counts(self) -> Self {
        let told = self.problems.into_iter().filter(|problem| !problem.code.is_of_names()).map(|problem| Problem {
            summary: if problem.code.counts() { problem.code.brief().to_owned() } else { problem.summary },
            cause: problem.cause.filter(|cause| !cause.is_of_names()),
            ..problem
        });
        let problems: Vec<Problem> = told.collect();
        let severity = problems.iter().map(|problem| problem.severity).max().unwrap_or_default();
        Self { severity, problems, ..self }
    }
}

impl Code {
    /// Whether it is a problem of logical ids.
    const fn is_of_names(self) -> bool {
        matches!(self, Self::Unserved | Self::AllSuspect)
    }

    /// Whether its summary tells how many instances or records there are.
    const fn counts(self) -> bool {
        matches!(self, Self::BrakePace | Self::BrakeProtect | Self::RegistryFilling)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{facts::Expiry, problem::Severity},
        *,
    };

    #[test]
    fn problems_of_names_and_numbers_are_left_out() {
        let problem = |code, severity| Problem::new(code, severity, "30 of 40 are there", "Look at them.");
        let problems = vec![
            problem(Code::Unserved, Severity::Critical),
            problem(Code::BrakePace, Severity::Warning),
            problem(Code::DatabaseSlow, Severity::Warning),
        ];
        let status = Status {
            severity: Severity::Critical,
            ready: true,
            expiry: Expiry::Paced,
            conditions: Vec::new(),
            problems,
        };
        let told = status.without_counts();
        assert_eq!(told.severity, Severity::Warning, "that of what is told");
        let summaries: Vec<_> = told.problems.iter().map(|problem| problem.summary.as_str()).collect();
        assert_eq!(summaries, [Code::BrakePace.brief(), "30 of 40 are there"]);
    }
}
