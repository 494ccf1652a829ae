-- 023: the deaths of a sweep are recorded by the statement that declares them.
--
-- The trigger registry_instance_died calls a function for each row, which is right for a death by hand and takes most of the time of
-- an expiry or a rotation that ends thousands of leases. It passes over what muster_declare_dead has recorded itself.
--
-- Oldest head: 019.

\ir functions/muster_declare_dead.sql

DROP TRIGGER registry_instance_died ON registry_instance;

-- On the row, because a statement-level trigger with transition tables would collect every beat as well.
CREATE TRIGGER registry_instance_died
AFTER UPDATE OF status, lease_id ON registry_instance
FOR EACH ROW
WHEN (
    OLD.status <> 'dead' AND (NEW.status = 'dead' OR NEW.lease_id <> OLD.lease_id)
    AND current_setting('muster.deaths_recorded', true) IS DISTINCT FROM pg_trigger_depth()::text
)
EXECUTE FUNCTION muster_record_death();

COMMENT ON TRIGGER registry_instance_died ON registry_instance IS 'Every death is recorded, whatever declared it.';

\ir functions/muster_reap_rows.sql
\ir functions/muster_reap_old_epoch.sql
