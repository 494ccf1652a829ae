//! A line of a watch as text: columns of fixed widths, because later lines are not known yet, or JSON.

use musterd_client::Change;

use super::progress::{Line, What};
use crate::{
    command::instances::{address, status},
    json::messages,
    terminal::{output, visible::pad},
};

/// A table of what happens.
pub(super) const HEADER: &str = concat!(
    "TIME                      EVENT      LOGICAL ID                INSTANCE                              ",
    "STATUS                LEASE       REVISION    ADDRESS\n"
);

/// Appends a row of the table. `time` is that of receipt.
pub(super) fn push_row(text: &mut String, line: &Line, time: &str) {
    let cells = match &line.what {
        What::Event(Change::Put(one) | Change::Gone(one)) => [
            one.logical_id.clone(),
            one.instance_id.to_string(),
            status(one),
            one.lease_id.to_string(),
            one.revision.to_string(),
            address(one),
        ],
        // Of a hint, only the ids, the lease and the suspicion are known.
        What::Event(Change::Suspect { logical_id, instance_id, lease_id, .. }) => [
            logical_id.clone(),
            instance_id.to_string(),
            String::new(),
            lease_id.to_string(),
            line.position.revision.to_string(),
            String::new(),
        ],
        What::Epoch => {
            let number = format!("number {}", line.epoch_number);
            [String::new(), line.cluster_epoch.to_string(), number, String::new(), resumable(line), String::new()]
        }
        _ => [String::new(), String::new(), String::new(), String::new(), resumable(line), String::new()],
    };
    let cells = cells.map(|cell| if cell.is_empty() { "-".to_owned() } else { output::escape(&cell).into_owned() });
    let [logical_id, instance, status, lease, revision, address] = cells;
    let word = word(&line.what);
    let columns =
        [(time, 24), (word, 9), (&logical_id, 24), (&instance, 36), (&status, 20), (&lease, 10), (&revision, 10)];
    let row: String = columns.iter().map(|(cell, columns)| pad(cell, *columns) + "  ").collect();
    let row = row + &address;
    text.push_str(row.trim_end());
    text.push('\n');
}

/// Appends a line of JSON.
pub(super) fn push_json(text: &mut String, line: &Line) {
    let (revision, history_id) = (line.position.revision, &line.position.history_id);
    let value = match &line.what {
        What::Event(event) => messages::watch_event(event, revision, history_id),
        mark => messages::watch_mark(word(mark), revision, history_id, line.cluster_epoch, line.epoch_number),
    };
    text.push_str(&output::json_line(&value));
}

fn resumable(line: &Line) -> String {
    if line.position.revision == 0 { String::new() } else { line.position.revision.to_string() }
}

/// What a line tells, in one word.
pub(super) fn word(what: &What) -> &'static str {
    match what {
        What::Event(change) => messages::change_word(change),
        What::Reset => "RESET",
        What::Epoch => "EPOCH",
        What::Synced => "SYNCED",
        What::Bookmark => "BOOKMARK",
    }
}

#[cfg(test)]
mod tests {
    use super::{super::progress::Position, *};

    fn line(what: What) -> Line {
        let position = Position { revision: 12, history_id: "h".into() };
        Line { what, position, cluster_epoch: uuid::Uuid::nil(), epoch_number: 3 }
    }

    fn put() -> What {
        let mut one = musterd_client::Instance::default();
        (one.logical_id, one.instance_id) = ("organ\n\u{1b}[2J".into(), uuid::Uuid::from_u128(1));
        (one.status, one.lease_id, one.revision) = (musterd_client::Status::Alive, 7, 9);
        (one.ip, one.port) = ("10.0.0.1".parse().ok(), Some(80));
        What::Event(Change::Put(Box::new(one)))
    }

    #[test]
    fn columns_are_aligned_and_a_name_cannot_forge_a_row() {
        let mut text = HEADER.to_owned();
        push_row(&mut text, &line(put()), "2026-01-02T03:04:05.678Z");
        let (header, row) = text.split_once('\n').expect("a header");
        assert_eq!(row.lines().count(), 1);
        for (name, cell) in [
            ("TIME", "2026-01-02T"),
            ("EVENT", "PUT "),
            ("LOGICAL ID", "organ\\n\\u{1b}[2J "),
            ("INSTANCE", "00000000-"),
            ("STATUS", "alive "),
            ("LEASE", "7 "),
            ("REVISION", "9 "),
            ("ADDRESS", "10.0.0.1:80"),
        ] {
            let column = header.find(name).expect(name);
            assert!(row[column..].starts_with(cell), "{name}: {row}");
        }
    }

    #[test]
    fn event_and_bookmark_are_objects_with_their_revision() {
        let mut text = String::new();
        push_json(&mut text, &line(put()));
        push_json(&mut text, &line(What::Epoch));
        let values: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(values[0]["type"], "WATCH_EVENT_TYPE_PUT");
        assert_eq!(values[0]["instance"]["revision"], "9");
        assert_eq!((&values[0]["revision"], &values[0]["historyId"]), (&"12".into(), &"h".into()));
        assert_eq!((&values[1]["type"], &values[1]["epochNumber"]), (&"EPOCH".into(), &"3".into()));
        assert!(values[1]["instance"].is_null());
    }
}
