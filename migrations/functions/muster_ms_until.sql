-- muster_ms_until: How many milliseconds p_at is after p_now; negative if it is before; null if p_at is null. At most
-- ten years either way, because an infinite time has no difference to another one.

CREATE OR REPLACE FUNCTION muster_ms_until(p_at timestamptz, p_now timestamptz)
RETURNS bigint
LANGUAGE sql
STABLE
STRICT
AS $$
    SELECT (extract(epoch FROM
        greatest(least(p_at, p_now + interval '3650 days'), p_now - interval '3650 days') - p_now) * 1000)::bigint;
$$;

COMMENT ON FUNCTION muster_ms_until(timestamptz, timestamptz) IS 'How many milliseconds a time is after another one, at most ten years either way, whatever the row holds.';
