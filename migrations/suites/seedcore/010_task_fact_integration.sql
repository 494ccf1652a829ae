-- 010: edges between tasks and facts.

CREATE OR REPLACE FUNCTION ensure_fact_node(p_fact_id uuid)
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    v_node bigint;
BEGIN
    SELECT node_id INTO v_node FROM graph_node_map
    WHERE node_type = 'fact' AND ext_table = 'facts' AND ext_uuid = p_fact_id;
    IF v_node IS NULL THEN
        -- Another session may have been faster; then its node is returned.
        INSERT INTO graph_node_map (node_type, ext_table, ext_uuid) VALUES ('fact', 'facts', p_fact_id)
        ON CONFLICT (node_type, ext_table, ext_uuid) DO UPDATE SET updated_at = graph_node_map.updated_at
        RETURNING node_id INTO v_node;
    END IF;
    RETURN v_node;
END
$$;

CREATE TABLE IF NOT EXISTS task_reads_fact (
    id         bigserial PRIMARY KEY,
    task_id    uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    fact_id    uuid NOT NULL REFERENCES facts (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (task_id, fact_id)
);

CREATE INDEX IF NOT EXISTS idx_task_reads_fact_task ON task_reads_fact (task_id);
CREATE INDEX IF NOT EXISTS idx_task_reads_fact_fact ON task_reads_fact (fact_id);

CREATE TABLE IF NOT EXISTS task_produces_fact (
    id         bigserial PRIMARY KEY,
    task_id    uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    fact_id    uuid NOT NULL REFERENCES facts (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (task_id, fact_id)
);

CREATE INDEX IF NOT EXISTS idx_task_produces_fact_task ON task_produces_fact (task_id);
CREATE INDEX IF NOT EXISTS idx_task_produces_fact_fact ON task_produces_fact (fact_id);

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
JOIN graph_node_map AS dst ON dst.node_type = 'agent' AND dst.ext_table = 'agent_registry' AND dst.ext_text_id = edge.agent_id
UNION ALL
SELECT src.node_id AS src_node_id, dst.node_id AS dst_node_id, 'agent__member_of__organ'::text AS edge_type
FROM agent_member_of_organ AS edge
JOIN graph_node_map AS src ON src.node_type = 'agent' AND src.ext_table = 'agent_registry' AND src.ext_text_id = edge.agent_id
JOIN graph_node_map AS dst ON dst.node_type = 'organ' AND dst.ext_table = 'organ_registry' AND dst.ext_text_id = edge.organ_id
UNION ALL
SELECT src.node_id AS src_node_id, dst.node_id AS dst_node_id, 'agent__collab__agent'::text AS edge_type
FROM agent_collab_agent AS edge
JOIN graph_node_map AS src ON src.node_type = 'agent' AND src.ext_table = 'agent_registry' AND src.ext_text_id = edge.src_agent
JOIN graph_node_map AS dst ON dst.node_type = 'agent' AND dst.ext_table = 'agent_registry' AND dst.ext_text_id = edge.dst_agent
UNION ALL
SELECT src.node_id AS src_node_id, dst.node_id AS dst_node_id, 'organ__provides__skill'::text AS edge_type
FROM organ_provides_skill AS edge
JOIN graph_node_map AS src ON src.node_type = 'organ' AND src.ext_table = 'organ_registry' AND src.ext_text_id = edge.organ_id
JOIN graph_node_map AS dst ON dst.node_type = 'skill' AND dst.ext_table = 'skill' AND dst.ext_text_id = edge.skill_name
UNION ALL
SELECT src.node_id AS src_node_id, dst.node_id AS dst_node_id, 'organ__uses__service'::text AS edge_type
FROM organ_uses_service AS edge
JOIN graph_node_map AS src ON src.node_type = 'organ' AND src.ext_table = 'organ_registry' AND src.ext_text_id = edge.organ_id
JOIN graph_node_map AS dst ON dst.node_type = 'service' AND dst.ext_table = 'service' AND dst.ext_text_id = edge.service_name
UNION ALL
SELECT src.node_id AS src_node_id, dst.node_id AS dst_node_id, 'organ__governed_by__policy'::text AS edge_type
FROM organ_governed_by_policy AS edge
JOIN graph_node_map AS src ON src.node_type = 'organ' AND src.ext_table = 'organ_registry' AND src.ext_text_id = edge.organ_id
JOIN graph_node_map AS dst ON dst.node_type = 'policy' AND dst.ext_table = 'policy' AND dst.ext_text_id = edge.policy_name
UNION ALL
SELECT src.node_id AS src_node_id, dst.node_id AS dst_node_id, 'agent__uses__model'::text AS edge_type
FROM agent_uses_model AS edge
JOIN graph_node_map AS src ON src.node_type = 'agent' AND src.ext_table = 'agent_registry' AND src.ext_text_id = edge.agent_id
JOIN graph_node_map AS dst ON dst.node_type = 'model' AND dst.ext_table = 'model' AND dst.ext_text_id = edge.model_name
UNION ALL
SELECT src.node_id AS src_node_id, dst.node_id AS dst_node_id, 'task__reads__fact'::text AS edge_type
FROM task_reads_fact AS edge
JOIN graph_node_map AS src ON src.node_type = 'task' AND src.ext_table = 'tasks' AND src.ext_uuid = edge.task_id
JOIN graph_node_map AS dst ON dst.node_type = 'fact' AND dst.ext_table = 'facts' AND dst.ext_uuid = edge.fact_id
UNION ALL
SELECT src.node_id AS src_node_id, dst.node_id AS dst_node_id, 'task__produces__fact'::text AS edge_type
FROM task_produces_fact AS edge
JOIN graph_node_map AS src ON src.node_type = 'task' AND src.ext_table = 'tasks' AND src.ext_uuid = edge.task_id
JOIN graph_node_map AS dst ON dst.node_type = 'fact' AND dst.ext_table = 'facts' AND dst.ext_uuid = edge.fact_id;

COMMENT ON VIEW hgnn_edges IS 'All edges between nodes of graph_node_map; an edge whose ends are not mapped is left out.';
