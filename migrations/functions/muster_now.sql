-- muster_now: The clock that stamps and judges everything here: the time of the call, not of the start of the
-- transaction.
--
-- Waiting for a lock therefore does not age a lease. It is one function, so that a test can replace it.

CREATE OR REPLACE FUNCTION muster_now()
RETURNS timestamptz
LANGUAGE sql
VOLATILE
AS $$
    SELECT clock_timestamp();
$$;

COMMENT ON FUNCTION muster_now() IS 'The clock that stamps and judges everything here: the time of the call, not of the start of the transaction.';
