-- muster_hook_remove: Removes a hook; deaths that waited for it alone are released without it. Returns whether there was one.
-- With the rights of the caller, as muster_hook_set.

CREATE OR REPLACE FUNCTION muster_hook_remove(p_name text)
RETURNS boolean
LANGUAGE plpgsql
VOLATILE
SET search_path FROM CURRENT
AS $$
DECLARE
    v_removed boolean;
BEGIN
    DELETE FROM registry_hook WHERE name = p_name;
    v_removed := FOUND;
    UPDATE registry_death
    SET released_at = muster_now()
    WHERE released_at IS NULL AND hooks_done @> ARRAY(SELECT name FROM registry_hook);
    IF v_removed THEN
        PERFORM muster_audit('hook_remove', muster_sql_caller(), p_name, NULL, NULL);
    END IF;
    RETURN v_removed;
END
$$;

COMMENT ON FUNCTION muster_hook_remove(text) IS 'Removes a hook; deaths that waited for it alone are released without it.';
REVOKE ALL ON FUNCTION muster_hook_remove(text) FROM PUBLIC;
