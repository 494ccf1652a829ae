-- muster_deadline: When a lease ends without another beat: p_last_heartbeat plus the TTL, 15 s where p_ttl_ms is null.
-- The number is that of muster_limits: it
-- is repeated here because views call this function with the search path of their caller. Always a time between 1970 and 10068, whatever a hand wrote into the row: one row with an infinite time would
-- otherwise end the statement for all rows. A planner inlines it (STABLE, one expression, no search_path).

CREATE OR REPLACE FUNCTION muster_deadline(p_last_heartbeat timestamptz, p_ttl_ms bigint)
RETURNS timestamptz
LANGUAGE sql
STABLE
AS $$
    SELECT greatest(least(p_last_heartbeat, timestamptz '9999-12-31 00:00:00+00'), timestamptz '1970-01-01 00:00:00+00')
        + coalesce(p_ttl_ms, 15000) * interval '1 millisecond';
$$;

COMMENT ON FUNCTION muster_deadline(timestamptz, bigint) IS 'When a lease ends without another beat. Never infinite and never out of range, whatever the row holds.';
