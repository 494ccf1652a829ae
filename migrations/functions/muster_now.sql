-- muster_now: The clock that stamps and judges everything here: the time of the call, not of the transaction's start,
-- so that waiting for a lock ages nobody. One function, so that a test can replace it.

CREATE OR REPLACE FUNCTION muster_now()
RETURNS timestamptz
LANGUAGE sql
VOLATILE
AS $$
    SELECT clock_timestamp();
$$;

COMMENT ON FUNCTION muster_now() IS 'The clock that stamps and judges everything here.';
