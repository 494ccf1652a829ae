-- 009: facts, with full-text search.
--
-- One full-text index; SeedCore makes the same one twice.

CREATE TABLE IF NOT EXISTS facts (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    text       text        NOT NULL,
    tags       text[]      DEFAULT '{}',
    meta_data  jsonb       DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE facts IS 'Facts of SeedCore.';

CREATE INDEX IF NOT EXISTS idx_facts_text ON facts USING gin (to_tsvector('english', text));
CREATE INDEX IF NOT EXISTS idx_facts_created_at ON facts (created_at);
CREATE INDEX IF NOT EXISTS idx_facts_updated_at ON facts (updated_at);
CREATE INDEX IF NOT EXISTS idx_facts_tags ON facts USING gin (tags);
CREATE INDEX IF NOT EXISTS idx_facts_meta_data ON facts USING gin (meta_data);

CREATE OR REPLACE FUNCTION update_facts_updated_at()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

DROP TRIGGER IF EXISTS trigger_facts_updated_at ON facts;
CREATE TRIGGER trigger_facts_updated_at
    BEFORE UPDATE ON facts
    FOR EACH ROW EXECUTE FUNCTION update_facts_updated_at();
