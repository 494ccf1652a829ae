-- muster_expiry_report: What the reaper is told about the next deadline and about the hold, by times alone.
--
-- p_next is the earliest deadline of a live lease, p_held_until the end of an operator's hold, p_hold_until and
-- p_hold_reason the hold that is shown, p_stalled_at the last flush of a daemon that may have beats that are not saved.
-- Returns the milliseconds until a lease can expire (negative: overdue; null: no lease is alive), for how many
-- milliseconds expiry is on hold, and why. While a daemon is stalled it is asked again after a second.

CREATE OR REPLACE FUNCTION muster_expiry_report(
    p_now         timestamptz,
    p_next        timestamptz,
    p_held_until  timestamptz,
    p_hold_until  timestamptz,
    p_hold_reason text,
    p_stalled_at  timestamptz
)
RETURNS TABLE (
    next_in_ms  bigint,
    held_for_ms bigint,
    hold_reason text
)
LANGUAGE sql
STABLE
AS $$
    SELECT CASE
               WHEN p_next IS NULL THEN NULL
               WHEN stalled THEN greatest(muster_ms_until(p_next, p_now), 1000)
               ELSE muster_ms_until(greatest(p_next, CASE WHEN p_hold_until > p_now THEN p_held_until END), p_now)
           END,
           CASE
               WHEN stalled THEN greatest(muster_ms_until(p_stalled_at, p_now) + limits.evicted_after_ms, 100)
               WHEN p_hold_until > p_now THEN greatest(muster_ms_until(p_hold_until, p_now), 1)
           END,
           CASE
               WHEN stalled THEN 'a daemon has stopped saving beats'
               WHEN p_hold_until > p_now THEN p_hold_reason
           END
    FROM muster_limits() AS limits,
         LATERAL (SELECT p_stalled_at IS NOT NULL AND coalesce(p_hold_until, p_now) <= p_now AS stalled) AS daemons;
$$;

COMMENT ON FUNCTION muster_expiry_report(timestamptz, timestamptz, timestamptz, timestamptz, text, timestamptz) IS 'What the reaper is told about the next deadline and about the hold, by times alone.';
