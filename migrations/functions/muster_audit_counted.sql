-- muster_audit_counted: Records what happens often: the first time in a period of p_period_ms as a row, later ones as its count.
-- The detail is that of the first time. With the rights of the caller, as muster_audit.

CREATE OR REPLACE FUNCTION muster_audit_counted(
    p_action    text,
    p_by        text,
    p_object    text,
    p_detail    jsonb,
    p_count     bigint,
    p_period_ms bigint
)
RETURNS void
LANGUAGE sql
VOLATILE
AS $$
    INSERT INTO registry_audit AS audit (at, action, by_role, by, object, detail, period)
    SELECT
        clock.now, p_action, session_user, p_by, p_object,
        jsonb_strip_nulls(p_detail || jsonb_build_object('count', p_count)),
        to_timestamp(floor(extract(epoch FROM clock.now) * 1000 / p_period_ms) * p_period_ms / 1000)
    FROM (SELECT muster_now() AS now) AS clock
    ON CONFLICT (period, action, by, object, by_role) WHERE period IS NOT NULL
    DO UPDATE SET detail = audit.detail || jsonb_build_object('count', (audit.detail ->> 'count')::bigint + p_count);
$$;

COMMENT ON FUNCTION muster_audit_counted(text, text, text, jsonb, bigint, bigint) IS 'Records what happens often: the first time in a period as a row, later ones as its count.';
REVOKE ALL ON FUNCTION muster_audit_counted(text, text, text, jsonb, bigint, bigint) FROM PUBLIC;
