-- muster_error_code: The SQLSTATE with which a direct SQL caller learns of a verdict.

CREATE OR REPLACE FUNCTION muster_error_code(p_verdict text)
RETURNS text
LANGUAGE sql
IMMUTABLE STRICT
AS $$
    SELECT CASE p_verdict
        WHEN 'no_epoch' THEN 'MU001'
        WHEN 'epoch_fenced' THEN 'MU002'
        WHEN 'taken' THEN 'MU003'
        WHEN 'unknown' THEN 'MU004'
        WHEN 'expired' THEN 'MU005'
        WHEN 'lease_replaced' THEN 'MU005'
        WHEN 'invalid_transition' THEN 'MU006'
        WHEN 'epoch_mismatch' THEN 'MU007'
        WHEN 'epoch_reused' THEN 'MU008'
        WHEN 'invalid' THEN '22023'
    END;
$$;

COMMENT ON FUNCTION muster_error_code(text) IS 'The SQLSTATE with which a direct SQL caller learns of a verdict.';
