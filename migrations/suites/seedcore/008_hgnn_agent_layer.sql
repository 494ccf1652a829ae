-- 008: models, policies, services and skills, and the edges between agents, organs and these.

CREATE TABLE IF NOT EXISTS model (
    model_name text PRIMARY KEY,
    meta       jsonb DEFAULT '{}',
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);

DROP TRIGGER IF EXISTS trg_model_updated_at ON model;
CREATE TRIGGER trg_model_updated_at
    BEFORE UPDATE ON model
    FOR EACH ROW EXECUTE FUNCTION update_timestamps();

CREATE TABLE IF NOT EXISTS policy (
    policy_name text PRIMARY KEY,
    meta        jsonb DEFAULT '{}',
    created_at  timestamptz DEFAULT now(),
    updated_at  timestamptz DEFAULT now()
);

DROP TRIGGER IF EXISTS trg_policy_updated_at ON policy;
CREATE TRIGGER trg_policy_updated_at
    BEFORE UPDATE ON policy
    FOR EACH ROW EXECUTE FUNCTION update_timestamps();

CREATE TABLE IF NOT EXISTS service (
    service_name text PRIMARY KEY,
    meta         jsonb DEFAULT '{}',
    created_at   timestamptz DEFAULT now(),
    updated_at   timestamptz DEFAULT now()
);

DROP TRIGGER IF EXISTS trg_service_updated_at ON service;
CREATE TRIGGER trg_service_updated_at
    BEFORE UPDATE ON service
    FOR EACH ROW EXECUTE FUNCTION update_timestamps();

CREATE TABLE IF NOT EXISTS skill (
    skill_name text PRIMARY KEY,
    meta       jsonb DEFAULT '{}',
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);

DROP TRIGGER IF EXISTS trg_skill_updated_at ON skill;
CREATE TRIGGER trg_skill_updated_at
    BEFORE UPDATE ON skill
    FOR EACH ROW EXECUTE FUNCTION update_timestamps();

CREATE TABLE IF NOT EXISTS agent_member_of_organ (
    agent_id   text NOT NULL REFERENCES agent_registry (agent_id) ON DELETE CASCADE,
    organ_id   text NOT NULL REFERENCES organ_registry (organ_id) ON DELETE CASCADE,
    created_at timestamptz DEFAULT now(),
    PRIMARY KEY (agent_id, organ_id)
);

CREATE INDEX IF NOT EXISTS idx_agent_member_of_organ_agent ON agent_member_of_organ (agent_id);
CREATE INDEX IF NOT EXISTS idx_agent_member_of_organ_organ ON agent_member_of_organ (organ_id);

CREATE TABLE IF NOT EXISTS agent_collab_agent (
    src_agent  text NOT NULL REFERENCES agent_registry (agent_id) ON DELETE CASCADE,
    dst_agent  text NOT NULL REFERENCES agent_registry (agent_id) ON DELETE CASCADE,
    created_at timestamptz DEFAULT now(),
    PRIMARY KEY (src_agent, dst_agent)
);

CREATE INDEX IF NOT EXISTS idx_agent_collab_src ON agent_collab_agent (src_agent);
CREATE INDEX IF NOT EXISTS idx_agent_collab_dst ON agent_collab_agent (dst_agent);

CREATE TABLE IF NOT EXISTS organ_provides_skill (
    organ_id   text NOT NULL REFERENCES organ_registry (organ_id) ON DELETE CASCADE,
    skill_name text NOT NULL REFERENCES skill (skill_name) ON DELETE CASCADE,
    created_at timestamptz DEFAULT now(),
    PRIMARY KEY (organ_id, skill_name)
);

CREATE INDEX IF NOT EXISTS idx_organ_provides_skill_organ ON organ_provides_skill (organ_id);
CREATE INDEX IF NOT EXISTS idx_organ_provides_skill_skill ON organ_provides_skill (skill_name);

CREATE TABLE IF NOT EXISTS organ_uses_service (
    organ_id     text NOT NULL REFERENCES organ_registry (organ_id) ON DELETE CASCADE,
    service_name text NOT NULL REFERENCES service (service_name) ON DELETE CASCADE,
    created_at   timestamptz DEFAULT now(),
    PRIMARY KEY (organ_id, service_name)
);

CREATE INDEX IF NOT EXISTS idx_organ_uses_service_organ ON organ_uses_service (organ_id);
CREATE INDEX IF NOT EXISTS idx_organ_uses_service_serv ON organ_uses_service (service_name);

CREATE TABLE IF NOT EXISTS organ_governed_by_policy (
    organ_id    text NOT NULL REFERENCES organ_registry (organ_id) ON DELETE CASCADE,
    policy_name text NOT NULL REFERENCES policy (policy_name) ON DELETE CASCADE,
    created_at  timestamptz DEFAULT now(),
    PRIMARY KEY (organ_id, policy_name)
);

CREATE INDEX IF NOT EXISTS idx_organ_governed_by_policy_organ ON organ_governed_by_policy (organ_id);
CREATE INDEX IF NOT EXISTS idx_organ_governed_by_policy_policy ON organ_governed_by_policy (policy_name);

CREATE TABLE IF NOT EXISTS agent_uses_model (
    agent_id   text NOT NULL REFERENCES agent_registry (agent_id) ON DELETE CASCADE,
    model_name text NOT NULL REFERENCES model (model_name) ON DELETE CASCADE,
    created_at timestamptz DEFAULT now(),
    PRIMARY KEY (agent_id, model_name)
);

CREATE INDEX IF NOT EXISTS idx_agent_uses_model_agent ON agent_uses_model (agent_id);
CREATE INDEX IF NOT EXISTS idx_agent_uses_model_model ON agent_uses_model (model_name);

CREATE OR REPLACE FUNCTION ensure_model_node(p_name text)
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    v_node bigint;
BEGIN
    INSERT INTO model (model_name) VALUES (p_name) ON CONFLICT DO NOTHING;
    SELECT node_id INTO v_node FROM graph_node_map
    WHERE node_type = 'model' AND ext_table = 'model' AND ext_text_id = p_name;
    IF v_node IS NULL THEN
        -- Another session may have been faster; then its node is returned.
        INSERT INTO graph_node_map (node_type, ext_table, ext_text_id) VALUES ('model', 'model', p_name)
        ON CONFLICT (node_type, ext_table, ext_text_id) DO UPDATE SET updated_at = graph_node_map.updated_at
        RETURNING node_id INTO v_node;
    END IF;
    RETURN v_node;
END
$$;

CREATE OR REPLACE FUNCTION ensure_policy_node(p_name text)
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    v_node bigint;
BEGIN
    INSERT INTO policy (policy_name) VALUES (p_name) ON CONFLICT DO NOTHING;
    SELECT node_id INTO v_node FROM graph_node_map
    WHERE node_type = 'policy' AND ext_table = 'policy' AND ext_text_id = p_name;
    IF v_node IS NULL THEN
        -- Another session may have been faster; then its node is returned.
        INSERT INTO graph_node_map (node_type, ext_table, ext_text_id) VALUES ('policy', 'policy', p_name)
        ON CONFLICT (node_type, ext_table, ext_text_id) DO UPDATE SET updated_at = graph_node_map.updated_at
        RETURNING node_id INTO v_node;
    END IF;
    RETURN v_node;
END
$$;

CREATE OR REPLACE FUNCTION ensure_service_node(p_name text)
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    v_node bigint;
BEGIN
    INSERT INTO service (service_name) VALUES (p_name) ON CONFLICT DO NOTHING;
    SELECT node_id INTO v_node FROM graph_node_map
    WHERE node_type = 'service' AND ext_table = 'service' AND ext_text_id = p_name;
    IF v_node IS NULL THEN
        -- Another session may have been faster; then its node is returned.
        INSERT INTO graph_node_map (node_type, ext_table, ext_text_id) VALUES ('service', 'service', p_name)
        ON CONFLICT (node_type, ext_table, ext_text_id) DO UPDATE SET updated_at = graph_node_map.updated_at
        RETURNING node_id INTO v_node;
    END IF;
    RETURN v_node;
END
$$;

CREATE OR REPLACE FUNCTION ensure_skill_node(p_name text)
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    v_node bigint;
BEGIN
    INSERT INTO skill (skill_name) VALUES (p_name) ON CONFLICT DO NOTHING;
    SELECT node_id INTO v_node FROM graph_node_map
    WHERE node_type = 'skill' AND ext_table = 'skill' AND ext_text_id = p_name;
    IF v_node IS NULL THEN
        -- Another session may have been faster; then its node is returned.
        INSERT INTO graph_node_map (node_type, ext_table, ext_text_id) VALUES ('skill', 'skill', p_name)
        ON CONFLICT (node_type, ext_table, ext_text_id) DO UPDATE SET updated_at = graph_node_map.updated_at
        RETURNING node_id INTO v_node;
    END IF;
    RETURN v_node;
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
JOIN graph_node_map AS dst ON dst.node_type = 'model' AND dst.ext_table = 'model' AND dst.ext_text_id = edge.model_name;

COMMENT ON VIEW hgnn_edges IS 'All edges between nodes of graph_node_map; an edge whose ends are not mapped is left out.';
