-- 022: the history of leases names their owners, and is found by logical id.
--
-- Oldest head: 019.

ALTER TABLE registry_death ADD COLUMN owner text;
COMMENT ON COLUMN registry_death.owner IS 'The identity that registered it. Null: registered through a daemon without a policy, or ended before this column was there.';

CREATE INDEX idx_death_logical_id ON registry_death (logical_id, died_at);
COMMENT ON INDEX idx_death_logical_id IS 'The ended leases of a logical id, by time.';

\ir functions/muster_record_death.sql
\ir functions/muster_note_deletion.sql
