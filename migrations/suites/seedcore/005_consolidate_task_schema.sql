-- 005: columns of tasks that early forms of SeedCore's 001 did not have.
--
-- SeedCore's own 005 drops seven indexes and makes them again at each run; here they stay.

ALTER TABLE tasks
    ADD COLUMN IF NOT EXISTS locked_by   text,
    ADD COLUMN IF NOT EXISTS locked_at   timestamptz,
    ADD COLUMN IF NOT EXISTS run_after   timestamptz,
    ADD COLUMN IF NOT EXISTS attempts    integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS drift_score double precision NOT NULL DEFAULT 0;
