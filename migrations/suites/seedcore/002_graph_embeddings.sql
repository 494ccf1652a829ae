-- 002: embeddings of graph nodes, and their join with tasks.
--
-- Runs after 007, whose node map the view reads. SeedCore makes the view in 007, where it fails without pgvector.
--
-- Needs: vector.

CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE IF NOT EXISTS graph_embeddings (
    node_id    bigint      PRIMARY KEY,
    label      text,
    props      jsonb,
    emb        vector(128) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE graph_embeddings IS 'Embeddings of the nodes of graph_node_map.';

-- Lists that were made of an empty table are of no use until REINDEX.
CREATE INDEX IF NOT EXISTS idx_graph_embeddings_emb ON graph_embeddings USING ivfflat (emb vector_l2_ops) WITH (lists = 100);

CREATE OR REPLACE FUNCTION update_graph_embeddings_updated_at()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

DROP TRIGGER IF EXISTS trg_graph_embeddings_updated_at ON graph_embeddings;
CREATE TRIGGER trg_graph_embeddings_updated_at
    BEFORE UPDATE ON graph_embeddings
    FOR EACH ROW EXECUTE FUNCTION update_graph_embeddings_updated_at();

CREATE OR REPLACE VIEW task_embeddings AS
SELECT task.id AS task_id, node.node_id, vectors.emb, vectors.label, vectors.props, vectors.created_at, vectors.updated_at
FROM tasks AS task
JOIN graph_node_map AS node ON node.node_type = 'task' AND node.ext_table = 'tasks' AND node.ext_uuid = task.id
JOIN graph_embeddings AS vectors ON vectors.node_id = node.node_id;

COMMENT ON VIEW task_embeddings IS 'Tasks with the embeddings of their nodes.';
