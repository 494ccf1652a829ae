-- 001: the queue of tasks.

DO $$
BEGIN
    IF to_regtype('taskstatus') IS NULL THEN
        CREATE TYPE taskstatus AS ENUM ('created', 'queued', 'running', 'completed', 'failed', 'cancelled', 'retry');
    END IF;
END
$$;

CREATE TABLE IF NOT EXISTS tasks (
    id          uuid             PRIMARY KEY DEFAULT gen_random_uuid(),
    status      taskstatus       NOT NULL DEFAULT 'created',
    attempts    integer          NOT NULL DEFAULT 0,
    locked_by   text,
    locked_at   timestamptz,
    run_after   timestamptz,
    type        text             NOT NULL,
    description text,
    domain      text,
    drift_score double precision NOT NULL DEFAULT 0,
    params      jsonb            NOT NULL DEFAULT '{}',
    result      jsonb,
    error       text,
    created_at  timestamptz      NOT NULL DEFAULT now(),
    updated_at  timestamptz      NOT NULL DEFAULT now()
);

COMMENT ON TABLE tasks IS 'Tasks of SeedCore: its coordinator writes them, its dispatchers claim them.';

CREATE INDEX IF NOT EXISTS idx_tasks_status ON tasks (status);
CREATE INDEX IF NOT EXISTS idx_tasks_created_at ON tasks (created_at);
CREATE INDEX IF NOT EXISTS idx_tasks_run_after ON tasks (run_after);
CREATE INDEX IF NOT EXISTS idx_tasks_locked_at ON tasks (locked_at);
CREATE INDEX IF NOT EXISTS idx_tasks_type ON tasks (type);
CREATE INDEX IF NOT EXISTS idx_tasks_domain ON tasks (domain);
CREATE INDEX IF NOT EXISTS idx_tasks_claim ON tasks (status, run_after, created_at) WHERE status IN ('queued', 'failed', 'retry');

CREATE OR REPLACE FUNCTION update_tasks_updated_at()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

DROP TRIGGER IF EXISTS trigger_tasks_updated_at ON tasks;
CREATE TRIGGER trigger_tasks_updated_at
    BEFORE UPDATE ON tasks
    FOR EACH ROW EXECUTE FUNCTION update_tasks_updated_at();
