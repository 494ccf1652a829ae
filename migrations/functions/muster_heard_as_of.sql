-- muster_heard_as_of: As of when every lease counts as heard, because of a disruption that ended at p_disrupted_at; null
-- if there was none, or if the hold that followed it is over.
--
-- It lies grace_ms after the end of the disruption. So a lease expires no sooner than its own TTL and grace_ms after the
-- disruption, and a long TTL delays no other lease.

CREATE OR REPLACE FUNCTION muster_heard_as_of(p_now timestamptz, p_hold_until timestamptz, p_disrupted_at timestamptz)
RETURNS timestamptz
LANGUAGE sql
STABLE
AS $$
    SELECT CASE WHEN p_hold_until > p_now THEN p_disrupted_at + grace_ms * interval '1 millisecond' END
    FROM muster_limits();
$$;

COMMENT ON FUNCTION muster_heard_as_of(timestamptz, timestamptz, timestamptz) IS 'As of when every lease counts as heard, because of a disruption.';
