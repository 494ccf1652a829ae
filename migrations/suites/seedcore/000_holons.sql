-- 000: holons, the vectors that SeedCore's init script makes before its migrations.
--
-- Needs: vector.

CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE IF NOT EXISTS holons (
    id         serial      PRIMARY KEY,
    uuid       uuid        NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    embedding  vector(768),
    meta       jsonb,
    created_at timestamptz DEFAULT now()
);

COMMENT ON TABLE holons IS 'Holons of SeedCore with their embeddings.';

CREATE INDEX IF NOT EXISTS holons_embedding_idx ON holons USING hnsw (embedding vector_cosine_ops);
CREATE INDEX IF NOT EXISTS holons_uuid_idx ON holons (uuid);
CREATE INDEX IF NOT EXISTS holons_created_at_idx ON holons (created_at);
CREATE INDEX IF NOT EXISTS holons_meta_idx ON holons USING gin (meta);
