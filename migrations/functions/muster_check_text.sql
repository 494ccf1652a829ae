-- muster_check_text: Refuses a text that is too long or holds control characters.

CREATE OR REPLACE FUNCTION muster_check_text(p_field text, p_value text, p_max_bytes integer)
RETURNS void
LANGUAGE plpgsql
IMMUTABLE
AS $$
BEGIN
    IF octet_length(p_value) > p_max_bytes THEN
        RAISE EXCEPTION '% has % bytes, the limit is %', p_field, octet_length(p_value), p_max_bytes
            USING ERRCODE = muster_error_code('invalid'), HINT = 'Shorten it.';
    END IF;
    IF p_value ~ '[\u0001-\u001f\u007f-\u009f]' THEN
        RAISE EXCEPTION '% has a control character', p_field
            USING ERRCODE = muster_error_code('invalid'), HINT = 'Remove it.';
    END IF;
END
$$;

COMMENT ON FUNCTION muster_check_text(text, text, integer) IS 'Refuses a text that is too long or holds control characters.';
