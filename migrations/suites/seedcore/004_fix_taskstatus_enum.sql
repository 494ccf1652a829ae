-- 004: the status retry, for a database of SeedCore that stopped after its first 001.
--
-- A new label cannot be used in the transaction that adds it, so nothing here does.

ALTER TYPE taskstatus ADD VALUE IF NOT EXISTS 'retry';
