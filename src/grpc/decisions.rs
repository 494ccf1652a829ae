//! ListDecisions: a page of the decisions on record.

use crate::{
    model::{DECISION_FILTER_MAX_BYTES, Decision, DecisionFilter, input},
    proto::v1,
    registry::operators::Operators,
    wire::{
        convert::{self, Violations},
        failure::Failure,
        page_token,
    },
};

/// Reads one page for a caller that may read all of them.
pub(super) async fn list(
    operators: &Operators,
    request: v1::ListDecisionsRequest,
) -> Result<v1::ListDecisionsResponse, Failure> {
    let mut violations = Violations::default();
    let before = violations.take(page_token::decode_number("page_token", &request.page_token));
    let page_size = violations.take(convert::page_size(request.page_size));
    let since = violations.take(convert::optional_time("since", request.since));
    for (field, value) in [("action", &request.action), ("by", &request.by)] {
        violations.take(input::plain_text(field, value, DECISION_FILTER_MAX_BYTES));
    }
    violations.into_result()?;
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let filter = DecisionFilter { since, action: given(request.action), by: given(request.by) };
    let limit = u32::try_from(page_size).unwrap_or(u32::MAX);
    let decisions = operators.decisions(&filter, before, limit).await?;
    let decisions = decisions.into_iter().map(decision);
    let (decisions, next_page_token) = page_token::numbered(decisions, page_size, |decision| decision.id);
    Ok(v1::ListDecisionsResponse { decisions, next_page_token })
}

fn decision(decision: Decision) -> v1::Decision {
    let Decision { id, at, action, by, by_role, object, detail, revision } = decision;
    let (at, revision) = (Some(convert::timestamp(at)), revision.map(|revision| revision.0).unwrap_or_default());
    v1::Decision { id, at, action, by, by_role, object, detail, revision }
}
