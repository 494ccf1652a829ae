-- muster_audit_note: Records for a daemon what has no transaction of its own: refusals (denied), a row a minute for each identity
-- and method, and files that were put in use or could not be (reload). p_entries is an array of objects with action, by, object,
-- detail and, of refusals, count.
--
-- A role that may call it cannot record another action: an entry of another one is refused.

CREATE OR REPLACE FUNCTION muster_audit_note(p_entries jsonb)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path FROM CURRENT
AS $$
DECLARE
    v_entry record;
BEGIN
    -- plpgsql does not read a field of the name "by". In one order, so that two daemons that count the same refusals do not wait for each other in a circle.
    FOR v_entry IN
        SELECT entry.action, entry.by AS identity, entry.object, entry.detail, entry.count
        FROM jsonb_to_recordset(p_entries)
            AS entry (action text, by text, object text, detail jsonb, count bigint)
        ORDER BY entry.action, entry.by, entry.object
    LOOP
        CASE v_entry.action
            WHEN 'denied' THEN
                PERFORM muster_audit_counted(
                    'denied', coalesce(v_entry.identity, ''), coalesce(v_entry.object, ''), coalesce(v_entry.detail, '{}'),
                    greatest(v_entry.count, 1), 60000);
            WHEN 'reload' THEN
                PERFORM muster_audit('reload', v_entry.identity, v_entry.object, v_entry.detail, NULL);
            ELSE
                RAISE EXCEPTION 'the action of an entry is %', coalesce(quote_literal(v_entry.action), 'null')
                    USING ERRCODE = muster_error_code('invalid'), HINT = 'Use ''denied'' or ''reload''.';
        END CASE;
    END LOOP;
END
$$;

COMMENT ON FUNCTION muster_audit_note(jsonb) IS 'Records for a daemon what has no transaction of its own: refusals, and files that were reloaded.';
REVOKE ALL ON FUNCTION muster_audit_note(jsonb) FROM PUBLIC;
