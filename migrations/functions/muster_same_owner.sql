-- muster_same_owner: Whether a registration comes from the owner of the row, and for the same process: the owner is the
-- identity that asks, and logical id, node and pid agree. Where the identities decide nothing (muster_owner_agrees) and node
-- or pid is unknown, address and port must agree as well.

CREATE OR REPLACE FUNCTION muster_same_owner(p_row registry_instance, p_op muster_operation)
RETURNS boolean
LANGUAGE sql
IMMUTABLE
AS $$
    SELECT p_row.logical_id = p_op.logical_id
       AND p_row.node_id IS NOT DISTINCT FROM p_op.node_id
       AND p_row.pid IS NOT DISTINCT FROM p_op.pid
       AND coalesce(
           muster_owner_agrees(p_row.owner, p_op.identity),
           (p_row.node_id IS NOT NULL AND p_row.pid IS NOT NULL)
           OR (p_row.ip_address IS NOT DISTINCT FROM p_op.ip_address AND p_row.port IS NOT DISTINCT FROM p_op.port)
       );
$$;

COMMENT ON FUNCTION muster_same_owner(registry_instance, muster_operation) IS 'Whether a registration comes from the owner of the row, and for the same process.';
