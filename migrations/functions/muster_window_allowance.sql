-- muster_window_allowance: How many more leases may expire in a window in which p_reaped of p_live leases have expired.

CREATE OR REPLACE FUNCTION muster_window_allowance(p_live bigint, p_reaped bigint)
RETURNS bigint
LANGUAGE sql
IMMUTABLE
AS $$
    SELECT greatest(greatest(window_deaths_min, ceil(p_live * window_deaths_percent / 100.0)::bigint) - p_reaped, 0)
    FROM muster_limits();
$$;

COMMENT ON FUNCTION muster_window_allowance(bigint, bigint) IS 'How many more leases may expire in a window in which p_reaped of p_live leases have expired.';
