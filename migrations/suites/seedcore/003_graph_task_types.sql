-- 003: tasks of the graph: two functions that queue them, and a view to watch them.
--
-- The view has the columns that SeedCore's 005 gives it from the first: a view cannot get a column in between later. A
-- database of SeedCore that stopped before 005 has a narrower one, which is made again.

DO $$
BEGIN
    IF to_regclass('graph_tasks') IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = to_regclass('graph_tasks') AND attname = 'drift_score'
    ) THEN
        DROP VIEW graph_tasks;
    END IF;
END
$$;

CREATE OR REPLACE VIEW graph_tasks AS
SELECT id, type, status, attempts, locked_by, locked_at, run_after, params, result, error, created_at, updated_at, drift_score,
       CASE status
           WHEN 'completed' THEN '✅'
           WHEN 'running' THEN '🔄'
           WHEN 'queued' THEN '⏳'
           WHEN 'failed' THEN '❌'
           WHEN 'retry' THEN '🔄'
           WHEN 'created' THEN '📝'
           WHEN 'cancelled' THEN '❌'
           ELSE '❓'
       END AS status_emoji
FROM tasks
WHERE type IN ('graph_embed', 'graph_rag_query')
ORDER BY updated_at DESC;

COMMENT ON VIEW graph_tasks IS 'Tasks of the graph with a sign for their status.';

CREATE OR REPLACE FUNCTION create_graph_embed_task(
    start_node_ids integer[],
    k_hops integer DEFAULT 2,
    description text DEFAULT NULL
)
RETURNS uuid
LANGUAGE plpgsql
AS $$
DECLARE
    v_task uuid;
BEGIN
    INSERT INTO tasks (type, status, description, params)
    VALUES ('graph_embed', 'queued', coalesce(create_graph_embed_task.description, format('Embed %s-hop neighborhood around nodes %s', k_hops, array_to_string(start_node_ids, ', '))),
            jsonb_build_object('start_ids', start_node_ids, 'k', k_hops))
    RETURNING id INTO v_task;
    RETURN v_task;
END
$$;

CREATE OR REPLACE FUNCTION create_graph_rag_task(
    start_node_ids integer[],
    k_hops integer DEFAULT 2,
    top_k integer DEFAULT 10,
    description text DEFAULT NULL
)
RETURNS uuid
LANGUAGE plpgsql
AS $$
DECLARE
    v_task uuid;
BEGIN
    INSERT INTO tasks (type, status, description, params)
    VALUES ('graph_rag_query', 'queued', coalesce(create_graph_rag_task.description, format('RAG query %s-hop neighborhood around nodes %s, top %s', k_hops, array_to_string(start_node_ids, ', '), top_k)),
            jsonb_build_object('start_ids', start_node_ids, 'k', k_hops, 'topk', top_k))
    RETURNING id INTO v_task;
    RETURN v_task;
END
$$;
