-- muster_saved_horizon: Every daemon has saved all beats that it had heard by this time, at most p_now; later ones may
-- still be on the way. A daemon whose last flush is in the future was written by hand: it saves nothing, and deaths do
-- not wait for it.

CREATE OR REPLACE FUNCTION muster_saved_horizon(p_now timestamptz)
RETURNS timestamptz
LANGUAGE sql
VOLATILE
AS $$
    SELECT least(min(saved_up_to), p_now) FROM registry_daemon
    WHERE last_flush <= p_now + (SELECT evicted_after_ms FROM muster_limits()) * interval '1 millisecond';
$$;

COMMENT ON FUNCTION muster_saved_horizon(timestamptz) IS 'Up to when every daemon has saved the beats that it has heard.';
