-- muster_owner_agrees: Whether the owner of a row is the identity that asks. Null: the identities decide nothing, because one
-- of them is not known (a daemon without a policy), or both are SQL callers.
--
-- What SQL callers may do is a matter of PostgreSQL's grants: a role that may call register_instance() may also end any
-- lease, so roles are not compared with each other. An application whose roles change, or are several, goes on to work.

CREATE OR REPLACE FUNCTION muster_owner_agrees(p_owner text, p_identity text)
RETURNS boolean
LANGUAGE sql
IMMUTABLE
AS $$
    SELECT CASE WHEN NOT (p_owner LIKE 'sql/%' AND p_identity LIKE 'sql/%') THEN p_owner = p_identity END;
$$;

COMMENT ON FUNCTION muster_owner_agrees(text, text) IS 'Whether the owner of a row is the identity that asks. Null: the identities decide nothing.';
