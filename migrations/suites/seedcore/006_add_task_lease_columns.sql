-- 006: leases of tasks, and the function that takes tasks back from owners that have stopped.

ALTER TABLE tasks
    ADD COLUMN IF NOT EXISTS owner_id         text,
    ADD COLUMN IF NOT EXISTS lease_expires_at timestamptz,
    ADD COLUMN IF NOT EXISTS last_heartbeat   timestamptz;

COMMENT ON COLUMN tasks.owner_id IS 'Which dispatcher has claimed the task.';
COMMENT ON COLUMN tasks.lease_expires_at IS 'When the claim ends.';
COMMENT ON COLUMN tasks.last_heartbeat IS 'When the owner was last heard of.';

CREATE INDEX IF NOT EXISTS idx_tasks_owner_id ON tasks (owner_id);
CREATE INDEX IF NOT EXISTS idx_tasks_lease_expires_at ON tasks (lease_expires_at);
CREATE INDEX IF NOT EXISTS idx_tasks_last_heartbeat ON tasks (last_heartbeat);
CREATE INDEX IF NOT EXISTS idx_tasks_stale_running ON tasks (status, updated_at, last_heartbeat, lease_expires_at) WHERE status = 'running';
CREATE INDEX IF NOT EXISTS idx_tasks_owner_status ON tasks (owner_id, status, last_heartbeat) WHERE owner_id IS NOT NULL;

-- SeedCore's own leaves locked_by behind, so that a requeued task still looks claimed.
CREATE OR REPLACE FUNCTION cleanup_stale_running_tasks(
    stale_minutes integer DEFAULT 15,
    max_attempts integer DEFAULT 3
)
RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    v_requeued integer;
BEGIN
    UPDATE tasks
    SET status = 'queued', attempts = attempts + 1,
        owner_id = NULL, locked_by = NULL, locked_at = NULL, lease_expires_at = NULL, updated_at = now(),
        error = concat_ws(' | ', error, 'requeued: stale while running')
    WHERE status = 'running' AND updated_at < now() - make_interval(mins => stale_minutes) AND attempts < max_attempts;
    GET DIAGNOSTICS v_requeued = ROW_COUNT;
    UPDATE tasks
    SET status = 'failed', owner_id = NULL, locked_by = NULL, locked_at = NULL, lease_expires_at = NULL, updated_at = now(),
        error = concat_ws(' | ', error, 'failed: requeued too often')
    WHERE status = 'running' AND updated_at < now() - make_interval(mins => stale_minutes);
    RETURN v_requeued;
END
$$;

COMMENT ON FUNCTION cleanup_stale_running_tasks(integer, integer) IS 'Requeues tasks that have been running for too long; returns how many.';
