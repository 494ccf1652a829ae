//! The decisions of expiry that need no row: SQL functions of scalars, as tables, and the numbers that they use.

use musterd::{model::input, status};
use tokio_postgres::Client;

use crate::harness::registry::{Registry, column, get};

#[tokio::test]
async fn limits_agree_with_the_constants_of_the_daemon_and_the_schema() {
    let registry = Registry::head().await;
    let client = &registry.client;
    let ms = |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap();
    for (limit, constant) in [
        ("ttl_min_ms", ms(input::TTL_MIN)),
        ("ttl_max_ms", ms(input::TTL_MAX)),
        ("ttl_default_ms", ms(input::TTL_DEFAULT)),
        ("stalled_after_ms", ms(status::SILENT_AFTER)),
        ("evicted_after_ms", ms(status::EVICTED_AFTER)),
        ("hold_max_ms", ms(*musterd::wire::convert::OPERATOR_DURATION.end())),
    ] {
        assert_eq!(get::<i64>(client, &format!("SELECT {limit} FROM muster_limits()")).await, constant, "{limit}");
    }
    let check = "SELECT pg_get_constraintdef(oid) = format('CHECK (((ttl_ms >= %s) AND (ttl_ms <= %s)))', ttl_min_ms, ttl_max_ms)
                 FROM pg_constraint, muster_limits() WHERE conname = 'registry_instance_ttl_check'";
    assert!(get::<bool>(client, check).await, "the check of ttl_ms");
    let default = "SELECT muster_deadline(timestamptz '2026-01-01', NULL) = timestamptz '2026-01-01' + ttl_default_ms * interval '1 ms'
                   FROM muster_limits()";
    assert!(get::<bool>(client, default).await, "the TTL in muster_deadline");
}

/// What `muster_brake_mode` says to a row of counts: live, overdue, settled, silent, heard, allowed, protected for ms.
async fn mode(client: &Client, counts: [i64; 7]) -> String {
    let arguments = counts.map(|count| count.to_string()).join(", ");
    get(client, &format!("SELECT coalesce(muster_brake_mode({arguments}), '')")).await
}

#[tokio::test]
async fn brake_mode_follows_its_table() {
    let registry = Registry::head().await;
    for (counts, expected, why) in [
        ([40, 0, 0, 0, 40, 10, 0], "", "no lease is overdue"),
        ([1, 1, 0, 1, 0, 10, 0], "", "a single instance: nothing to wait for"),
        ([2, 1, 0, 1, 1, 10, 0], "", "one of two, and the other is heard"),
        ([2, 1, 0, 1, 0, 10, 0], "wait", "one of two, and of the other it is not known"),
        ([2, 1, 1, 1, 0, 10, 0], "", "one of two, and the other is due later: a crash is more likely"),
        ([2, 1, 0, 2, 0, 10, 0], "protect", "both are silent"),
        ([3, 2, 2, 2, 1, 10, 0], "protect", "two of three"),
        ([4, 2, 2, 2, 2, 10, 0], "", "half of them is not more than half"),
        ([40, 1, 0, 1, 36, 10, 0], "", "enough are heard, whatever the other three are"),
        ([40, 1, 0, 18, 4, 10, 0], "wait", "it could be either"),
        ([40, 1, 1, 18, 4, 10, 0], "protect", "there was time enough to hear from the others"),
        ([40, 1, 0, 25, 0, 10, 0], "protect", "most are silent, whatever the others are"),
        ([40, 40, 40, 40, 0, 10, 599_999], "protect", "just less than 10 minutes"),
        ([40, 40, 40, 40, 0, 10, 600_000], "pace", "the time is up"),
        ([40, 5, 5, 40, 0, 10, 600_000], "", "the time is up, and few are overdue"),
        ([100, 20, 20, 20, 80, 15, 0], "pace", "more than may expire"),
        ([100, 15, 15, 15, 85, 15, 0], "", "as many as may expire"),
        ([100, 1, 1, 1, 99, 0, 0], "pace", "the window is used up"),
    ] {
        assert_eq!(mode(&registry.client, counts).await, expected, "{counts:?}: {why}");
    }
}

#[tokio::test]
async fn brake_mode_keeps_its_properties_for_all_small_counts() {
    let registry = Registry::head().await;
    // Every combination of counts for up to 7 leases, before and after the time of protection.
    let combinations = "FROM generate_series(1, 7) AS live, generate_series(0, live) AS silent,
        generate_series(0, live - silent) AS heard, generate_series(0, silent) AS overdue,
        generate_series(0, overdue) AS settled, unnest(ARRAY[0, 2]) AS allowed, unnest(ARRAY[0, 600000]) AS protected_ms,
        LATERAL (SELECT muster_brake_mode(live, overdue, settled, silent, heard, allowed, protected_ms) AS mode,
                        live - silent - heard AS unclear) AS found";
    assert!(get::<i64>(&registry.client, &format!("SELECT count(*) {combinations}")).await > 1_000);
    for (law, broken) in [
        ("a single silent lease is never protected", "mode = 'protect' AND silent < 2"),
        ("while as many are heard as are silent, nothing is protected", "mode = 'protect' AND heard >= silent"),
        ("protection ends", "mode IN ('protect', 'wait') AND protected_ms >= 600000"),
        (
            "a majority that is silent for certain is protected",
            "mode IS DISTINCT FROM 'protect' AND overdue > 0 AND silent > 1 AND silent > heard + unclear AND protected_ms = 0",
        ),
        ("a settled lease is not waited with", "mode = 'wait' AND settled > 0"),
        ("what is known is not waited for", "mode = 'wait' AND unclear = 0"),
        ("no lease is overdue, no limit", "mode IS NOT NULL AND overdue = 0"),
        ("more than may expire is limited", "mode IS NULL AND overdue > allowed"),
        (
            "one lease more that is heard never protects",
            "mode IS DISTINCT FROM 'protect' AND unclear > 0
             AND muster_brake_mode(live, overdue, settled, silent, heard + 1, allowed, protected_ms) = 'protect'
             AND mode IS DISTINCT FROM 'wait'",
        ),
    ] {
        let sql = format!(
            "SELECT concat_ws(' ', live, overdue, settled, silent, heard, allowed, protected_ms, mode) {combinations} WHERE {broken} LIMIT 3"
        );
        assert_eq!(column::<String>(&registry.client, &sql).await, Vec::<String>::new(), "{law}");
    }
}

#[tokio::test]
async fn window_allowance_is_ten_or_15_percent_less_what_expired() {
    let registry = Registry::head().await;
    for (live, reaped, expected) in
        [(0, 0, 10), (66, 0, 10), (67, 0, 11), (100, 0, 15), (100, 15, 0), (100, 99, 0), (7, 4, 6)]
    {
        let sql = format!("SELECT muster_window_allowance({live}, {reaped})");
        assert_eq!(get::<i64>(&registry.client, &sql).await, expected, "{reaped} of {live}");
    }
}

#[tokio::test]
async fn lease_counts_as_renewed_5_s_after_a_disruption_until_the_hold_ends() {
    let registry = Registry::head().await;
    for (hold_until, disrupted_at, expected) in [
        ("'12:00:20'", "'11:59:55'", "12:00:00"),
        ("'12:00:00'", "'11:59:55'", ""),
        ("NULL", "'11:59:55'", ""),
        ("'12:00:20'", "NULL", ""),
    ] {
        let day =
            |time: &str| if time == "NULL" { time.to_owned() } else { format!("date '2026-01-01' + time {time}") };
        let sql = format!(
            "SELECT coalesce(muster_heard_as_of(date '2026-01-01' + time '12:00', {}, {})::time::text, '')",
            day(hold_until),
            day(disrupted_at)
        );
        assert_eq!(get::<String>(&registry.client, &sql).await, expected, "{hold_until} {disrupted_at}");
    }
}

#[tokio::test]
async fn report_names_the_next_deadline_and_the_hold_by_its_table() {
    let registry = Registry::head().await;
    // In seconds from now: the next deadline, an operator's hold, the hold that is shown, the last flush of a stalled daemon.
    for (next, held, hold, stalled, expected) in [
        ("4", "NULL", "NULL", "NULL", "4000"),
        ("-4", "NULL", "NULL", "NULL", "-4000"),
        ("NULL", "NULL", "NULL", "NULL", ""),
        ("4", "NULL", "9", "NULL", "4000 9000 why"),
        ("4", "9", "9", "NULL", "9000 9000 why"),
        ("14", "9", "9", "NULL", "14000 9000 why"),
        ("4", "9", "0", "NULL", "4000"),
        ("-4", "NULL", "NULL", "-4", "1000 11000 a daemon has stopped saving beats"),
        ("-4", "NULL", "NULL", "-15", "1000 100 a daemon has stopped saving beats"),
        ("-4", "NULL", "9", "-4", "-4000 9000 why"),
    ] {
        let at = |seconds: &str| format!("timestamptz '2026-01-01' + {seconds} * interval '1 s'");
        let sql = format!(
            "SELECT concat_ws(' ', next_in_ms, held_for_ms, hold_reason)
             FROM muster_expiry_report('2026-01-01', {}, {}, {}, 'why', {})",
            at(next),
            at(held),
            at(hold),
            at(stalled)
        );
        assert_eq!(get::<String>(&registry.client, &sql).await, expected, "{next} {held} {hold} {stalled}");
    }
}
