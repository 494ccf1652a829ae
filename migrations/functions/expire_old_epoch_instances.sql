-- expire_old_epoch_instances: Writes down the deaths of instances of older epochs, at most 1,000 a call. Returns how
-- many.

CREATE OR REPLACE FUNCTION expire_old_epoch_instances()
RETURNS integer
LANGUAGE sql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
    SELECT muster_reap_old_epoch(1000, muster_sql_caller());
$$;

COMMENT ON FUNCTION expire_old_epoch_instances() IS 'Writes down the deaths of instances of older epochs, at most 1,000 a call.';
REVOKE ALL ON FUNCTION expire_old_epoch_instances() FROM PUBLIC;
