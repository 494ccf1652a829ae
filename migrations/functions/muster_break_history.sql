-- muster_break_history: Makes every reader reload the registry, after rows vanished in a way that the feed cannot show.

CREATE OR REPLACE FUNCTION muster_break_history()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
BEGIN
    UPDATE cluster_metadata SET history_id = gen_random_uuid() WHERE id = 1;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION muster_break_history() IS 'Makes every reader reload the registry, after rows vanished in a way that the feed cannot show.';
REVOKE ALL ON FUNCTION muster_break_history() FROM PUBLIC;
