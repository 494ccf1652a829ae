-- 007: the graph: nodes, registries of agents and organs, resources, and edges from tasks.
--
-- hgnn_edges reads and never writes: SeedCore's maps nodes while it is selected from, and so fails in a read-only
-- transaction. backfill_task_nodes and the ensure_ functions map nodes.

CREATE TABLE IF NOT EXISTS graph_node_map (
    node_id     bigserial PRIMARY KEY,
    node_type   text NOT NULL,
    ext_table   text NOT NULL,
    ext_uuid    uuid,
    ext_text_id text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (node_type, ext_table, ext_uuid),
    UNIQUE (node_type, ext_table, ext_text_id)
);

COMMENT ON TABLE graph_node_map IS 'Which number a row of another table has as a node of the graph.';

CREATE OR REPLACE FUNCTION update_graph_node_map_updated_at()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

DROP TRIGGER IF EXISTS trg_graph_node_map_updated_at ON graph_node_map;
CREATE TRIGGER trg_graph_node_map_updated_at
    BEFORE UPDATE ON graph_node_map
    FOR EACH ROW EXECUTE FUNCTION update_graph_node_map_updated_at();

CREATE TABLE IF NOT EXISTS agent_registry (
    agent_id     text PRIMARY KEY,
    display_name text,
    props        jsonb,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS organ_registry (
    organ_id   text PRIMARY KEY,
    agent_id   text REFERENCES agent_registry (agent_id) ON UPDATE CASCADE ON DELETE SET NULL,
    kind       text,
    props      jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE OR REPLACE FUNCTION update_timestamps()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

DROP TRIGGER IF EXISTS trg_agent_registry_updated_at ON agent_registry;
CREATE TRIGGER trg_agent_registry_updated_at
    BEFORE UPDATE ON agent_registry
    FOR EACH ROW EXECUTE FUNCTION update_timestamps();

DROP TRIGGER IF EXISTS trg_organ_registry_updated_at ON organ_registry;
CREATE TRIGGER trg_organ_registry_updated_at
    BEFORE UPDATE ON organ_registry
    FOR EACH ROW EXECUTE FUNCTION update_timestamps();

CREATE TABLE IF NOT EXISTS artifact (
    artifact_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    uri         text NOT NULL,
    kind        text,
    props       jsonb,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS capability (
    capability_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name          text NOT NULL UNIQUE,
    props         jsonb,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS memory_cell (
    memory_cell_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    scope          text NOT NULL,
    mkey           text NOT NULL,
    version        integer NOT NULL DEFAULT 1,
    props          jsonb,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (scope, mkey, version)
);

CREATE TABLE IF NOT EXISTS task_depends_on_task (
    id          bigserial PRIMARY KEY,
    src_task_id uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    dst_task_id uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (src_task_id, dst_task_id)
);

CREATE TABLE IF NOT EXISTS task_produces_artifact (
    id          bigserial PRIMARY KEY,
    task_id     uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    artifact_id uuid NOT NULL REFERENCES artifact (artifact_id) ON DELETE CASCADE,
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (task_id, artifact_id)
);

CREATE TABLE IF NOT EXISTS task_uses_capability (
    id            bigserial PRIMARY KEY,
    task_id       uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    capability_id uuid NOT NULL REFERENCES capability (capability_id) ON DELETE RESTRICT,
    created_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (task_id, capability_id)
);

CREATE TABLE IF NOT EXISTS task_reads_memory (
    id             bigserial PRIMARY KEY,
    task_id        uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    memory_cell_id uuid NOT NULL REFERENCES memory_cell (memory_cell_id) ON DELETE RESTRICT,
    created_at     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (task_id, memory_cell_id)
);

CREATE TABLE IF NOT EXISTS task_writes_memory (
    id             bigserial PRIMARY KEY,
    task_id        uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    memory_cell_id uuid NOT NULL REFERENCES memory_cell (memory_cell_id) ON DELETE RESTRICT,
    created_at     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (task_id, memory_cell_id)
);

CREATE TABLE IF NOT EXISTS organ_provides_capability (
    id            bigserial PRIMARY KEY,
    organ_id      text NOT NULL REFERENCES organ_registry (organ_id) ON DELETE CASCADE,
    capability_id uuid NOT NULL REFERENCES capability (capability_id) ON DELETE CASCADE,
    created_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organ_id, capability_id)
);

CREATE TABLE IF NOT EXISTS agent_owns_memory_cell (
    id             bigserial PRIMARY KEY,
    agent_id       text NOT NULL REFERENCES agent_registry (agent_id) ON DELETE CASCADE,
    memory_cell_id uuid NOT NULL REFERENCES memory_cell (memory_cell_id) ON DELETE CASCADE,
    created_at     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (agent_id, memory_cell_id)
);

CREATE TABLE IF NOT EXISTS task_executed_by_organ (
    id         bigserial PRIMARY KEY,
    task_id    uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    organ_id   text NOT NULL REFERENCES organ_registry (organ_id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (task_id, organ_id)
);

CREATE TABLE IF NOT EXISTS task_owned_by_agent (
    id         bigserial PRIMARY KEY,
    task_id    uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    agent_id   text NOT NULL REFERENCES agent_registry (agent_id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (task_id, agent_id)
);

CREATE INDEX IF NOT EXISTS idx_task_dep_src ON task_depends_on_task (src_task_id);
CREATE INDEX IF NOT EXISTS idx_task_dep_dst ON task_depends_on_task (dst_task_id);
CREATE INDEX IF NOT EXISTS idx_task_prod_task ON task_produces_artifact (task_id);
CREATE INDEX IF NOT EXISTS idx_task_uses_task ON task_uses_capability (task_id);
CREATE INDEX IF NOT EXISTS idx_task_reads_task ON task_reads_memory (task_id);
CREATE INDEX IF NOT EXISTS idx_task_writes_task ON task_writes_memory (task_id);
CREATE INDEX IF NOT EXISTS idx_task_exec_task ON task_executed_by_organ (task_id);
CREATE INDEX IF NOT EXISTS idx_task_owned_task ON task_owned_by_agent (task_id);
CREATE INDEX IF NOT EXISTS idx_organ_cap_organ ON organ_provides_capability (organ_id);
CREATE INDEX IF NOT EXISTS idx_agent_mem_agent ON agent_owns_memory_cell (agent_id);

CREATE OR REPLACE FUNCTION ensure_task_node(p_task_id uuid)
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    v_node bigint;
BEGIN
    SELECT node_id INTO v_node FROM graph_node_map
    WHERE node_type = 'task' AND ext_table = 'tasks' AND ext_uuid = p_task_id;
    IF v_node IS NULL THEN
        -- Another session may have been faster; then its node is returned.
        INSERT INTO graph_node_map (node_type, ext_table, ext_uuid) VALUES ('task', 'tasks', p_task_id)
        ON CONFLICT (node_type, ext_table, ext_uuid) DO UPDATE SET updated_at = graph_node_map.updated_at
        RETURNING node_id INTO v_node;
    END IF;
    RETURN v_node;
END
$$;

CREATE OR REPLACE FUNCTION ensure_agent_node(p_agent_id text)
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    v_node bigint;
BEGIN
    SELECT node_id INTO v_node FROM graph_node_map
    WHERE node_type = 'agent' AND ext_table = 'agent_registry' AND ext_text_id = p_agent_id;
    IF v_node IS NULL THEN
        -- Another session may have been faster; then its node is returned.
        INSERT INTO graph_node_map (node_type, ext_table, ext_text_id) VALUES ('agent', 'agent_registry', p_agent_id)
        ON CONFLICT (node_type, ext_table, ext_text_id) DO UPDATE SET updated_at = graph_node_map.updated_at
        RETURNING node_id INTO v_node;
    END IF;
    RETURN v_node;
END
$$;

CREATE OR REPLACE FUNCTION ensure_organ_node(p_organ_id text)
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    v_node bigint;
BEGIN
    SELECT node_id INTO v_node FROM graph_node_map
    WHERE node_type = 'organ' AND ext_table = 'organ_registry' AND ext_text_id = p_organ_id;
    IF v_node IS NULL THEN
        -- Another session may have been faster; then its node is returned.
        INSERT INTO graph_node_map (node_type, ext_table, ext_text_id) VALUES ('organ', 'organ_registry', p_organ_id)
        ON CONFLICT (node_type, ext_table, ext_text_id) DO UPDATE SET updated_at = graph_node_map.updated_at
        RETURNING node_id INTO v_node;
    END IF;
    RETURN v_node;
END
$$;

CREATE OR REPLACE FUNCTION backfill_task_nodes()
RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    v_mapped integer;
BEGIN
    INSERT INTO graph_node_map (node_type, ext_table, ext_uuid)
    SELECT 'task', 'tasks', task.id FROM tasks AS task
    ON CONFLICT (node_type, ext_table, ext_uuid) DO NOTHING;
    GET DIAGNOSTICS v_mapped = ROW_COUNT;
    RETURN v_mapped;
END
$$;

CREATE OR REPLACE VIEW hgnn_edges AS
SELECT src.node_id AS src_node_id, dst.node_id AS dst_node_id, 'task__depends_on__task'::text AS edge_type
FROM task_depends_on_task AS edge
JOIN graph_node_map AS src ON src.node_type = 'task' AND src.ext_table = 'tasks' AND src.ext_uuid = edge.src_task_id
JOIN graph_node_map AS dst ON dst.node_type = 'task' AND dst.ext_table = 'tasks' AND dst.ext_uuid = edge.dst_task_id
UNION ALL
SELECT src.node_id AS src_node_id, dst.node_id AS dst_node_id, 'task__produces__artifact'::text AS edge_type
FROM task_produces_artifact AS edge
JOIN graph_node_map AS src ON src.node_type = 'task' AND src.ext_table = 'tasks' AND src.ext_uuid = edge.task_id
JOIN graph_node_map AS dst ON dst.node_type = 'artifact' AND dst.ext_table = 'artifact' AND dst.ext_uuid = edge.artifact_id
UNION ALL
SELECT src.node_id AS src_node_id, dst.node_id AS dst_node_id, 'task__uses__capability'::text AS edge_type
FROM task_uses_capability AS edge
JOIN graph_node_map AS src ON src.node_type = 'task' AND src.ext_table = 'tasks' AND src.ext_uuid = edge.task_id
JOIN graph_node_map AS dst ON dst.node_type = 'capability' AND dst.ext_table = 'capability' AND dst.ext_uuid = edge.capability_id
UNION ALL
SELECT src.node_id AS src_node_id, dst.node_id AS dst_node_id, 'task__reads__memory_cell'::text AS edge_type
FROM task_reads_memory AS edge
JOIN graph_node_map AS src ON src.node_type = 'task' AND src.ext_table = 'tasks' AND src.ext_uuid = edge.task_id
JOIN graph_node_map AS dst ON dst.node_type = 'memory_cell' AND dst.ext_table = 'memory_cell' AND dst.ext_uuid = edge.memory_cell_id
UNION ALL
SELECT src.node_id AS src_node_id, dst.node_id AS dst_node_id, 'task__writes__memory_cell'::text AS edge_type
FROM task_writes_memory AS edge
JOIN graph_node_map AS src ON src.node_type = 'task' AND src.ext_table = 'tasks' AND src.ext_uuid = edge.task_id
JOIN graph_node_map AS dst ON dst.node_type = 'memory_cell' AND dst.ext_table = 'memory_cell' AND dst.ext_uuid = edge.memory_cell_id
UNION ALL
SELECT src.node_id AS src_node_id, dst.node_id AS dst_node_id, 'task__executed_by__organ'::text AS edge_type
FROM task_executed_by_organ AS edge
JOIN graph_node_map AS src ON src.node_type = 'task' AND src.ext_table = 'tasks' AND src.ext_uuid = edge.task_id
JOIN graph_node_map AS dst ON dst.node_type = 'organ' AND dst.ext_table = 'organ_registry' AND dst.ext_text_id = edge.organ_id
UNION ALL
SELECT src.node_id AS src_node_id, dst.node_id AS dst_node_id, 'task__owned_by__agent'::text AS edge_type
FROM task_owned_by_agent AS edge
JOIN graph_node_map AS src ON src.node_type = 'task' AND src.ext_table = 'tasks' AND src.ext_uuid = edge.task_id
JOIN graph_node_map AS dst ON dst.node_type = 'agent' AND dst.ext_table = 'agent_registry' AND dst.ext_text_id = edge.agent_id;

COMMENT ON VIEW hgnn_edges IS 'All edges between nodes of graph_node_map; an edge whose ends are not mapped is left out.';

CREATE OR REPLACE FUNCTION create_graph_embed_task_v2(
    start_node_ids integer[],
    k_hops integer DEFAULT 2,
    description text DEFAULT NULL,
    p_agent_id text DEFAULT NULL,
    p_organ_id text DEFAULT NULL
)
RETURNS uuid
LANGUAGE plpgsql
AS $$
DECLARE
    v_task uuid;
BEGIN
    INSERT INTO tasks (type, status, description, params)
    VALUES ('graph_embed', 'queued', coalesce(create_graph_embed_task_v2.description, format('Embed %s-hop neighborhood around nodes %s', k_hops, array_to_string(start_node_ids, ', '))),
            jsonb_build_object('start_ids', start_node_ids, 'k', k_hops))
    RETURNING id INTO v_task;
    IF p_agent_id IS NOT NULL THEN
        INSERT INTO agent_registry (agent_id) VALUES (p_agent_id) ON CONFLICT DO NOTHING;
        INSERT INTO task_owned_by_agent (task_id, agent_id) VALUES (v_task, p_agent_id) ON CONFLICT DO NOTHING;
    END IF;
    IF p_organ_id IS NOT NULL THEN
        INSERT INTO organ_registry (organ_id, agent_id) VALUES (p_organ_id, p_agent_id) ON CONFLICT DO NOTHING;
        INSERT INTO task_executed_by_organ (task_id, organ_id) VALUES (v_task, p_organ_id) ON CONFLICT DO NOTHING;
        PERFORM ensure_organ_node(p_organ_id);
    END IF;
    IF p_agent_id IS NOT NULL THEN
        PERFORM ensure_agent_node(p_agent_id);
    END IF;
    PERFORM ensure_task_node(v_task);
    RETURN v_task;
END
$$;

CREATE OR REPLACE FUNCTION create_graph_rag_task_v2(
    start_node_ids integer[],
    k_hops integer DEFAULT 2,
    top_k integer DEFAULT 10,
    description text DEFAULT NULL,
    p_agent_id text DEFAULT NULL,
    p_organ_id text DEFAULT NULL
)
RETURNS uuid
LANGUAGE plpgsql
AS $$
DECLARE
    v_task uuid;
BEGIN
    INSERT INTO tasks (type, status, description, params)
    VALUES ('graph_rag_query', 'queued', coalesce(create_graph_rag_task_v2.description, format('RAG query %s-hop neighborhood around nodes %s, top %s', k_hops, array_to_string(start_node_ids, ', '), top_k)),
            jsonb_build_object('start_ids', start_node_ids, 'k', k_hops, 'topk', top_k))
    RETURNING id INTO v_task;
    IF p_agent_id IS NOT NULL THEN
        INSERT INTO agent_registry (agent_id) VALUES (p_agent_id) ON CONFLICT DO NOTHING;
        INSERT INTO task_owned_by_agent (task_id, agent_id) VALUES (v_task, p_agent_id) ON CONFLICT DO NOTHING;
    END IF;
    IF p_organ_id IS NOT NULL THEN
        INSERT INTO organ_registry (organ_id, agent_id) VALUES (p_organ_id, p_agent_id) ON CONFLICT DO NOTHING;
        INSERT INTO task_executed_by_organ (task_id, organ_id) VALUES (v_task, p_organ_id) ON CONFLICT DO NOTHING;
        PERFORM ensure_organ_node(p_organ_id);
    END IF;
    IF p_agent_id IS NOT NULL THEN
        PERFORM ensure_agent_node(p_agent_id);
    END IF;
    PERFORM ensure_task_node(v_task);
    RETURN v_task;
END
$$;
