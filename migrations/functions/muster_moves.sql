-- muster_moves: Whether a repeated registration would change a known address (IP address, port or serve route) that it may not
-- change.
--
-- Logical id, node and pid are shown to every reader of the registry, so a caller that repeats them proves nothing: a
-- live lease never leads to another address than before. An unknown address may become known. An authenticated owner may
-- move, and so may an SQL caller (may_move).

CREATE OR REPLACE FUNCTION muster_moves(p_row registry_instance, p_op muster_operation)
RETURNS boolean
LANGUAGE sql
IMMUTABLE
AS $$
    SELECT p_op.may_move IS NOT TRUE
       AND muster_owner_agrees(p_row.owner, p_op.identity) IS NOT TRUE
       AND (
        (p_row.ip_address IS NOT NULL AND p_row.ip_address IS DISTINCT FROM p_op.ip_address)
        OR (p_row.port IS NOT NULL AND p_row.port IS DISTINCT FROM p_op.port)
        OR (p_row.serve_route IS NOT NULL AND p_row.serve_route IS DISTINCT FROM p_op.serve_route)
       );
$$;

COMMENT ON FUNCTION muster_moves(registry_instance, muster_operation) IS 'Whether a repeated registration would change a known address that it may not change.';
