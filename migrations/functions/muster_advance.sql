-- muster_advance: Moves the revision on and sends a notification (channel muster, payload the revision). The caller
-- holds the cluster row.

CREATE OR REPLACE FUNCTION muster_advance(p_revision bigint)
RETURNS void
LANGUAGE plpgsql
VOLATILE
AS $$
BEGIN
    UPDATE cluster_metadata SET revision = p_revision WHERE id = 1 AND revision < p_revision;
    IF FOUND THEN
        -- A hint only: readers poll the revision itself, once a second at the latest.
        PERFORM pg_notify('muster', p_revision::text);
    END IF;
END
$$;

COMMENT ON FUNCTION muster_advance(bigint) IS 'Moves the revision on and sends a notification (channel muster, payload the revision).';
