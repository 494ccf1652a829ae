-- muster_check_text: Refuses a text that is too long or has a character that does not show.

CREATE OR REPLACE FUNCTION muster_check_text(p_field text, p_value text, p_max_bytes integer)
RETURNS void
LANGUAGE plpgsql
IMMUTABLE
AS $$
DECLARE
    v_hidden text;
BEGIN
    IF octet_length(p_value) > p_max_bytes THEN
        RAISE EXCEPTION '% has % bytes, the limit is %', p_field, octet_length(p_value), p_max_bytes
            USING ERRCODE = muster_error_code('invalid'), HINT = 'Shorten it.';
    END IF;
    v_hidden := muster_hidden_character(p_value);
    IF v_hidden IS NOT NULL THEN
        RAISE EXCEPTION '% has the character U+%, which does not show', p_field, lpad(upper(to_hex(ascii(v_hidden))), 4, '0')
            USING ERRCODE = muster_error_code('invalid'), HINT = 'Remove it.';
    END IF;
END
$$;

COMMENT ON FUNCTION muster_check_text(text, text, integer) IS 'Refuses a text that is too long or has a character that does not show.';
