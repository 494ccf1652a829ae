-- muster_audit: Records a decision, in the transaction of the act. p_by is an identity, or DAEMON for IDENTITY, as in
-- registry_epoch.rotated_by.
--
-- With the rights of the caller: only what runs as the owner of the registry may record a decision, and so no role that merely
-- calls functions can invent one.

CREATE OR REPLACE FUNCTION muster_audit(p_action text, p_by text, p_object text, p_detail jsonb, p_revision bigint)
RETURNS void
LANGUAGE sql
VOLATILE
AS $$
    INSERT INTO registry_audit (at, action, by_role, by, object, detail, revision)
    SELECT
        muster_now(), p_action, session_user, coalesce(split.parts[2], p_by, ''), coalesce(p_object, ''),
        jsonb_strip_nulls(coalesce(p_detail, '{}') || jsonb_build_object('daemon', split.parts[1])), p_revision
    FROM (SELECT regexp_match(p_by, '^(\S+) for (.+)$') AS parts) AS split;
$$;

COMMENT ON FUNCTION muster_audit(text, text, text, jsonb, bigint) IS 'Records a decision, in the transaction of the act.';
REVOKE ALL ON FUNCTION muster_audit(text, text, text, jsonb, bigint) FROM PUBLIC;
