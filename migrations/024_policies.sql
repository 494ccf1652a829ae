-- 024: the list of daemons names the policy that each daemon has in use, so that each one sees when another one differs.
--
-- Oldest head: 019.

ALTER TABLE registry_daemon ADD COLUMN policy text;
COMMENT ON COLUMN registry_daemon.policy IS 'Digests of the policy and of the tokens that it has in use, POLICY/TOKENS; none: it has no policy. Null: its version does not tell, or it has just entered.';

\ir functions/muster_daemon_policy.sql
