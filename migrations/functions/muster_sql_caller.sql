-- muster_sql_caller: The identity of a direct SQL caller, sql/ROLE: the role that opened the session, which neither SET ROLE
-- nor a function that runs with the rights of its owner changes. No daemon accepts an identity that begins so.

CREATE OR REPLACE FUNCTION muster_sql_caller()
RETURNS text
LANGUAGE sql
STABLE
AS $$
    SELECT 'sql/' || session_user;
$$;

COMMENT ON FUNCTION muster_sql_caller() IS 'The identity of a direct SQL caller, sql/ROLE.';
