-- muster_owner_of: The owner of what an identity registers. A caller without a credential owns nothing: any other one would be
-- the same.

CREATE OR REPLACE FUNCTION muster_owner_of(p_identity text)
RETURNS text
LANGUAGE sql
IMMUTABLE
AS $$
    SELECT nullif(p_identity, 'anonymous');
$$;

COMMENT ON FUNCTION muster_owner_of(text) IS 'The owner of what an identity registers.';
