-- The current state of the schema, for reading: what all migrations together make of an empty database.
--
-- Generated from the catalogue (MUSTERD_UPDATE_SCHEMA=1 cargo test --test it schema_sql), never edited. musterd migrate
-- verify compares a live database with it, block by block.

--- type taskstatus
CREATE TYPE taskstatus AS ENUM ('created', 'queued', 'running', 'completed', 'failed', 'cancelled', 'retry');

--- table agent_collab_agent
CREATE TABLE agent_collab_agent (
    src_agent text NOT NULL,
    dst_agent text NOT NULL,
    created_at timestamp with time zone DEFAULT now(),
    CONSTRAINT agent_collab_agent_pkey PRIMARY KEY (src_agent, dst_agent),
    CONSTRAINT agent_collab_agent_dst_agent_fkey FOREIGN KEY (dst_agent) REFERENCES agent_registry(agent_id) ON DELETE CASCADE,
    CONSTRAINT agent_collab_agent_src_agent_fkey FOREIGN KEY (src_agent) REFERENCES agent_registry(agent_id) ON DELETE CASCADE
);

--- table agent_member_of_organ
CREATE TABLE agent_member_of_organ (
    agent_id text NOT NULL,
    organ_id text NOT NULL,
    created_at timestamp with time zone DEFAULT now(),
    CONSTRAINT agent_member_of_organ_pkey PRIMARY KEY (agent_id, organ_id),
    CONSTRAINT agent_member_of_organ_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES agent_registry(agent_id) ON DELETE CASCADE,
    CONSTRAINT agent_member_of_organ_organ_id_fkey FOREIGN KEY (organ_id) REFERENCES organ_registry(organ_id) ON DELETE CASCADE
);

--- table agent_owns_memory_cell
CREATE TABLE agent_owns_memory_cell (
    id bigint NOT NULL DEFAULT nextval('agent_owns_memory_cell_id_seq'::regclass),
    agent_id text NOT NULL,
    memory_cell_id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT agent_owns_memory_cell_pkey PRIMARY KEY (id),
    CONSTRAINT agent_owns_memory_cell_agent_id_memory_cell_id_key UNIQUE (agent_id, memory_cell_id),
    CONSTRAINT agent_owns_memory_cell_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES agent_registry(agent_id) ON DELETE CASCADE,
    CONSTRAINT agent_owns_memory_cell_memory_cell_id_fkey FOREIGN KEY (memory_cell_id) REFERENCES memory_cell(memory_cell_id) ON DELETE CASCADE
);

--- table agent_registry
CREATE TABLE agent_registry (
    agent_id text NOT NULL,
    display_name text,
    props jsonb,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    updated_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT agent_registry_pkey PRIMARY KEY (agent_id)
);

--- table agent_uses_model
CREATE TABLE agent_uses_model (
    agent_id text NOT NULL,
    model_name text NOT NULL,
    created_at timestamp with time zone DEFAULT now(),
    CONSTRAINT agent_uses_model_pkey PRIMARY KEY (agent_id, model_name),
    CONSTRAINT agent_uses_model_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES agent_registry(agent_id) ON DELETE CASCADE,
    CONSTRAINT agent_uses_model_model_name_fkey FOREIGN KEY (model_name) REFERENCES model(model_name) ON DELETE CASCADE
);

--- table artifact
CREATE TABLE artifact (
    artifact_id uuid NOT NULL DEFAULT gen_random_uuid(),
    uri text NOT NULL,
    kind text,
    props jsonb,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    updated_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT artifact_pkey PRIMARY KEY (artifact_id)
);

--- table capability
CREATE TABLE capability (
    capability_id uuid NOT NULL DEFAULT gen_random_uuid(),
    name text NOT NULL,
    props jsonb,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    updated_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT capability_pkey PRIMARY KEY (capability_id),
    CONSTRAINT capability_name_key UNIQUE (name)
);

--- table facts
CREATE TABLE facts (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    text text NOT NULL,
    tags text[] DEFAULT '{}'::text[],
    meta_data jsonb DEFAULT '{}'::jsonb,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    updated_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT facts_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE facts IS 'Facts of SeedCore.';

--- table graph_node_map
CREATE TABLE graph_node_map (
    node_id bigint NOT NULL DEFAULT nextval('graph_node_map_node_id_seq'::regclass),
    node_type text NOT NULL,
    ext_table text NOT NULL,
    ext_uuid uuid,
    ext_text_id text,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    updated_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT graph_node_map_pkey PRIMARY KEY (node_id),
    CONSTRAINT graph_node_map_node_type_ext_table_ext_text_id_key UNIQUE (node_type, ext_table, ext_text_id),
    CONSTRAINT graph_node_map_node_type_ext_table_ext_uuid_key UNIQUE (node_type, ext_table, ext_uuid)
);
COMMENT ON TABLE graph_node_map IS 'Which number a row of another table has as a node of the graph.';

--- table memory_cell
CREATE TABLE memory_cell (
    memory_cell_id uuid NOT NULL DEFAULT gen_random_uuid(),
    scope text NOT NULL,
    mkey text NOT NULL,
    version integer NOT NULL DEFAULT 1,
    props jsonb,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    updated_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT memory_cell_pkey PRIMARY KEY (memory_cell_id),
    CONSTRAINT memory_cell_scope_mkey_version_key UNIQUE (scope, mkey, version)
);

--- table model
CREATE TABLE model (
    model_name text NOT NULL,
    meta jsonb DEFAULT '{}'::jsonb,
    created_at timestamp with time zone DEFAULT now(),
    updated_at timestamp with time zone DEFAULT now(),
    CONSTRAINT model_pkey PRIMARY KEY (model_name)
);

--- table organ_governed_by_policy
CREATE TABLE organ_governed_by_policy (
    organ_id text NOT NULL,
    policy_name text NOT NULL,
    created_at timestamp with time zone DEFAULT now(),
    CONSTRAINT organ_governed_by_policy_pkey PRIMARY KEY (organ_id, policy_name),
    CONSTRAINT organ_governed_by_policy_organ_id_fkey FOREIGN KEY (organ_id) REFERENCES organ_registry(organ_id) ON DELETE CASCADE,
    CONSTRAINT organ_governed_by_policy_policy_name_fkey FOREIGN KEY (policy_name) REFERENCES policy(policy_name) ON DELETE CASCADE
);

--- table organ_provides_capability
CREATE TABLE organ_provides_capability (
    id bigint NOT NULL DEFAULT nextval('organ_provides_capability_id_seq'::regclass),
    organ_id text NOT NULL,
    capability_id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT organ_provides_capability_pkey PRIMARY KEY (id),
    CONSTRAINT organ_provides_capability_organ_id_capability_id_key UNIQUE (organ_id, capability_id),
    CONSTRAINT organ_provides_capability_capability_id_fkey FOREIGN KEY (capability_id) REFERENCES capability(capability_id) ON DELETE CASCADE,
    CONSTRAINT organ_provides_capability_organ_id_fkey FOREIGN KEY (organ_id) REFERENCES organ_registry(organ_id) ON DELETE CASCADE
);

--- table organ_provides_skill
CREATE TABLE organ_provides_skill (
    organ_id text NOT NULL,
    skill_name text NOT NULL,
    created_at timestamp with time zone DEFAULT now(),
    CONSTRAINT organ_provides_skill_pkey PRIMARY KEY (organ_id, skill_name),
    CONSTRAINT organ_provides_skill_organ_id_fkey FOREIGN KEY (organ_id) REFERENCES organ_registry(organ_id) ON DELETE CASCADE,
    CONSTRAINT organ_provides_skill_skill_name_fkey FOREIGN KEY (skill_name) REFERENCES skill(skill_name) ON DELETE CASCADE
);

--- table organ_registry
CREATE TABLE organ_registry (
    organ_id text NOT NULL,
    agent_id text,
    kind text,
    props jsonb,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    updated_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT organ_registry_pkey PRIMARY KEY (organ_id),
    CONSTRAINT organ_registry_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES agent_registry(agent_id) ON UPDATE CASCADE ON DELETE SET NULL
);

--- table organ_uses_service
CREATE TABLE organ_uses_service (
    organ_id text NOT NULL,
    service_name text NOT NULL,
    created_at timestamp with time zone DEFAULT now(),
    CONSTRAINT organ_uses_service_pkey PRIMARY KEY (organ_id, service_name),
    CONSTRAINT organ_uses_service_organ_id_fkey FOREIGN KEY (organ_id) REFERENCES organ_registry(organ_id) ON DELETE CASCADE,
    CONSTRAINT organ_uses_service_service_name_fkey FOREIGN KEY (service_name) REFERENCES service(service_name) ON DELETE CASCADE
);

--- table policy
CREATE TABLE policy (
    policy_name text NOT NULL,
    meta jsonb DEFAULT '{}'::jsonb,
    created_at timestamp with time zone DEFAULT now(),
    updated_at timestamp with time zone DEFAULT now(),
    CONSTRAINT policy_pkey PRIMARY KEY (policy_name)
);

--- table service
CREATE TABLE service (
    service_name text NOT NULL,
    meta jsonb DEFAULT '{}'::jsonb,
    created_at timestamp with time zone DEFAULT now(),
    updated_at timestamp with time zone DEFAULT now(),
    CONSTRAINT service_pkey PRIMARY KEY (service_name)
);

--- table skill
CREATE TABLE skill (
    skill_name text NOT NULL,
    meta jsonb DEFAULT '{}'::jsonb,
    created_at timestamp with time zone DEFAULT now(),
    updated_at timestamp with time zone DEFAULT now(),
    CONSTRAINT skill_pkey PRIMARY KEY (skill_name)
);

--- table task_depends_on_task
CREATE TABLE task_depends_on_task (
    id bigint NOT NULL DEFAULT nextval('task_depends_on_task_id_seq'::regclass),
    src_task_id uuid NOT NULL,
    dst_task_id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT task_depends_on_task_pkey PRIMARY KEY (id),
    CONSTRAINT task_depends_on_task_src_task_id_dst_task_id_key UNIQUE (src_task_id, dst_task_id),
    CONSTRAINT task_depends_on_task_dst_task_id_fkey FOREIGN KEY (dst_task_id) REFERENCES tasks(id) ON DELETE CASCADE,
    CONSTRAINT task_depends_on_task_src_task_id_fkey FOREIGN KEY (src_task_id) REFERENCES tasks(id) ON DELETE CASCADE
);

--- table task_executed_by_organ
CREATE TABLE task_executed_by_organ (
    id bigint NOT NULL DEFAULT nextval('task_executed_by_organ_id_seq'::regclass),
    task_id uuid NOT NULL,
    organ_id text NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT task_executed_by_organ_pkey PRIMARY KEY (id),
    CONSTRAINT task_executed_by_organ_task_id_organ_id_key UNIQUE (task_id, organ_id),
    CONSTRAINT task_executed_by_organ_organ_id_fkey FOREIGN KEY (organ_id) REFERENCES organ_registry(organ_id) ON DELETE CASCADE,
    CONSTRAINT task_executed_by_organ_task_id_fkey FOREIGN KEY (task_id) REFERENCES tasks(id) ON DELETE CASCADE
);

--- table task_owned_by_agent
CREATE TABLE task_owned_by_agent (
    id bigint NOT NULL DEFAULT nextval('task_owned_by_agent_id_seq'::regclass),
    task_id uuid NOT NULL,
    agent_id text NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT task_owned_by_agent_pkey PRIMARY KEY (id),
    CONSTRAINT task_owned_by_agent_task_id_agent_id_key UNIQUE (task_id, agent_id),
    CONSTRAINT task_owned_by_agent_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES agent_registry(agent_id) ON DELETE CASCADE,
    CONSTRAINT task_owned_by_agent_task_id_fkey FOREIGN KEY (task_id) REFERENCES tasks(id) ON DELETE CASCADE
);

--- table task_produces_artifact
CREATE TABLE task_produces_artifact (
    id bigint NOT NULL DEFAULT nextval('task_produces_artifact_id_seq'::regclass),
    task_id uuid NOT NULL,
    artifact_id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT task_produces_artifact_pkey PRIMARY KEY (id),
    CONSTRAINT task_produces_artifact_task_id_artifact_id_key UNIQUE (task_id, artifact_id),
    CONSTRAINT task_produces_artifact_artifact_id_fkey FOREIGN KEY (artifact_id) REFERENCES artifact(artifact_id) ON DELETE CASCADE,
    CONSTRAINT task_produces_artifact_task_id_fkey FOREIGN KEY (task_id) REFERENCES tasks(id) ON DELETE CASCADE
);

--- table task_produces_fact
CREATE TABLE task_produces_fact (
    id bigint NOT NULL DEFAULT nextval('task_produces_fact_id_seq'::regclass),
    task_id uuid NOT NULL,
    fact_id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT task_produces_fact_pkey PRIMARY KEY (id),
    CONSTRAINT task_produces_fact_task_id_fact_id_key UNIQUE (task_id, fact_id),
    CONSTRAINT task_produces_fact_fact_id_fkey FOREIGN KEY (fact_id) REFERENCES facts(id) ON DELETE CASCADE,
    CONSTRAINT task_produces_fact_task_id_fkey FOREIGN KEY (task_id) REFERENCES tasks(id) ON DELETE CASCADE
);

--- table task_reads_fact
CREATE TABLE task_reads_fact (
    id bigint NOT NULL DEFAULT nextval('task_reads_fact_id_seq'::regclass),
    task_id uuid NOT NULL,
    fact_id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT task_reads_fact_pkey PRIMARY KEY (id),
    CONSTRAINT task_reads_fact_task_id_fact_id_key UNIQUE (task_id, fact_id),
    CONSTRAINT task_reads_fact_fact_id_fkey FOREIGN KEY (fact_id) REFERENCES facts(id) ON DELETE CASCADE,
    CONSTRAINT task_reads_fact_task_id_fkey FOREIGN KEY (task_id) REFERENCES tasks(id) ON DELETE CASCADE
);

--- table task_reads_memory
CREATE TABLE task_reads_memory (
    id bigint NOT NULL DEFAULT nextval('task_reads_memory_id_seq'::regclass),
    task_id uuid NOT NULL,
    memory_cell_id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT task_reads_memory_pkey PRIMARY KEY (id),
    CONSTRAINT task_reads_memory_task_id_memory_cell_id_key UNIQUE (task_id, memory_cell_id),
    CONSTRAINT task_reads_memory_memory_cell_id_fkey FOREIGN KEY (memory_cell_id) REFERENCES memory_cell(memory_cell_id) ON DELETE RESTRICT,
    CONSTRAINT task_reads_memory_task_id_fkey FOREIGN KEY (task_id) REFERENCES tasks(id) ON DELETE CASCADE
);

--- table task_uses_capability
CREATE TABLE task_uses_capability (
    id bigint NOT NULL DEFAULT nextval('task_uses_capability_id_seq'::regclass),
    task_id uuid NOT NULL,
    capability_id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT task_uses_capability_pkey PRIMARY KEY (id),
    CONSTRAINT task_uses_capability_task_id_capability_id_key UNIQUE (task_id, capability_id),
    CONSTRAINT task_uses_capability_capability_id_fkey FOREIGN KEY (capability_id) REFERENCES capability(capability_id) ON DELETE RESTRICT,
    CONSTRAINT task_uses_capability_task_id_fkey FOREIGN KEY (task_id) REFERENCES tasks(id) ON DELETE CASCADE
);

--- table task_writes_memory
CREATE TABLE task_writes_memory (
    id bigint NOT NULL DEFAULT nextval('task_writes_memory_id_seq'::regclass),
    task_id uuid NOT NULL,
    memory_cell_id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT task_writes_memory_pkey PRIMARY KEY (id),
    CONSTRAINT task_writes_memory_task_id_memory_cell_id_key UNIQUE (task_id, memory_cell_id),
    CONSTRAINT task_writes_memory_memory_cell_id_fkey FOREIGN KEY (memory_cell_id) REFERENCES memory_cell(memory_cell_id) ON DELETE RESTRICT,
    CONSTRAINT task_writes_memory_task_id_fkey FOREIGN KEY (task_id) REFERENCES tasks(id) ON DELETE CASCADE
);

--- table tasks
CREATE TABLE tasks (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    status taskstatus NOT NULL DEFAULT 'created'::taskstatus,
    attempts integer NOT NULL DEFAULT 0,
    locked_by text,
    locked_at timestamp with time zone,
    run_after timestamp with time zone,
    type text NOT NULL,
    description text,
    domain text,
    drift_score double precision NOT NULL DEFAULT 0,
    params jsonb NOT NULL DEFAULT '{}'::jsonb,
    result jsonb,
    error text,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    updated_at timestamp with time zone NOT NULL DEFAULT now(),
    owner_id text,
    lease_expires_at timestamp with time zone,
    last_heartbeat timestamp with time zone,
    CONSTRAINT tasks_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE tasks IS 'Tasks of SeedCore: its coordinator writes them, its dispatchers claim them.';
COMMENT ON COLUMN tasks.owner_id IS 'Which dispatcher has claimed the task.';
COMMENT ON COLUMN tasks.lease_expires_at IS 'When the claim ends.';
COMMENT ON COLUMN tasks.last_heartbeat IS 'When the owner was last heard of.';

--- index idx_agent_collab_dst on agent_collab_agent
CREATE INDEX idx_agent_collab_dst ON agent_collab_agent USING btree (dst_agent);

--- index idx_agent_collab_src on agent_collab_agent
CREATE INDEX idx_agent_collab_src ON agent_collab_agent USING btree (src_agent);

--- index idx_agent_mem_agent on agent_owns_memory_cell
CREATE INDEX idx_agent_mem_agent ON agent_owns_memory_cell USING btree (agent_id);

--- index idx_agent_member_of_organ_agent on agent_member_of_organ
CREATE INDEX idx_agent_member_of_organ_agent ON agent_member_of_organ USING btree (agent_id);

--- index idx_agent_member_of_organ_organ on agent_member_of_organ
CREATE INDEX idx_agent_member_of_organ_organ ON agent_member_of_organ USING btree (organ_id);

--- index idx_agent_uses_model_agent on agent_uses_model
CREATE INDEX idx_agent_uses_model_agent ON agent_uses_model USING btree (agent_id);

--- index idx_agent_uses_model_model on agent_uses_model
CREATE INDEX idx_agent_uses_model_model ON agent_uses_model USING btree (model_name);

--- index idx_facts_created_at on facts
CREATE INDEX idx_facts_created_at ON facts USING btree (created_at);

--- index idx_facts_meta_data on facts
CREATE INDEX idx_facts_meta_data ON facts USING gin (meta_data);

--- index idx_facts_tags on facts
CREATE INDEX idx_facts_tags ON facts USING gin (tags);

--- index idx_facts_text on facts
CREATE INDEX idx_facts_text ON facts USING gin (to_tsvector('english'::regconfig, text));

--- index idx_facts_updated_at on facts
CREATE INDEX idx_facts_updated_at ON facts USING btree (updated_at);

--- index idx_organ_cap_organ on organ_provides_capability
CREATE INDEX idx_organ_cap_organ ON organ_provides_capability USING btree (organ_id);

--- index idx_organ_governed_by_policy_organ on organ_governed_by_policy
CREATE INDEX idx_organ_governed_by_policy_organ ON organ_governed_by_policy USING btree (organ_id);

--- index idx_organ_governed_by_policy_policy on organ_governed_by_policy
CREATE INDEX idx_organ_governed_by_policy_policy ON organ_governed_by_policy USING btree (policy_name);

--- index idx_organ_provides_skill_organ on organ_provides_skill
CREATE INDEX idx_organ_provides_skill_organ ON organ_provides_skill USING btree (organ_id);

--- index idx_organ_provides_skill_skill on organ_provides_skill
CREATE INDEX idx_organ_provides_skill_skill ON organ_provides_skill USING btree (skill_name);

--- index idx_organ_uses_service_organ on organ_uses_service
CREATE INDEX idx_organ_uses_service_organ ON organ_uses_service USING btree (organ_id);

--- index idx_organ_uses_service_serv on organ_uses_service
CREATE INDEX idx_organ_uses_service_serv ON organ_uses_service USING btree (service_name);

--- index idx_task_dep_dst on task_depends_on_task
CREATE INDEX idx_task_dep_dst ON task_depends_on_task USING btree (dst_task_id);

--- index idx_task_dep_src on task_depends_on_task
CREATE INDEX idx_task_dep_src ON task_depends_on_task USING btree (src_task_id);

--- index idx_task_exec_task on task_executed_by_organ
CREATE INDEX idx_task_exec_task ON task_executed_by_organ USING btree (task_id);

--- index idx_task_owned_task on task_owned_by_agent
CREATE INDEX idx_task_owned_task ON task_owned_by_agent USING btree (task_id);

--- index idx_task_prod_task on task_produces_artifact
CREATE INDEX idx_task_prod_task ON task_produces_artifact USING btree (task_id);

--- index idx_task_produces_fact_fact on task_produces_fact
CREATE INDEX idx_task_produces_fact_fact ON task_produces_fact USING btree (fact_id);

--- index idx_task_produces_fact_task on task_produces_fact
CREATE INDEX idx_task_produces_fact_task ON task_produces_fact USING btree (task_id);

--- index idx_task_reads_fact_fact on task_reads_fact
CREATE INDEX idx_task_reads_fact_fact ON task_reads_fact USING btree (fact_id);

--- index idx_task_reads_fact_task on task_reads_fact
CREATE INDEX idx_task_reads_fact_task ON task_reads_fact USING btree (task_id);

--- index idx_task_reads_task on task_reads_memory
CREATE INDEX idx_task_reads_task ON task_reads_memory USING btree (task_id);

--- index idx_task_uses_task on task_uses_capability
CREATE INDEX idx_task_uses_task ON task_uses_capability USING btree (task_id);

--- index idx_task_writes_task on task_writes_memory
CREATE INDEX idx_task_writes_task ON task_writes_memory USING btree (task_id);

--- index idx_tasks_claim on tasks
CREATE INDEX idx_tasks_claim ON tasks USING btree (status, run_after, created_at) WHERE status = ANY (ARRAY['queued'::taskstatus, 'failed'::taskstatus, 'retry'::taskstatus]);

--- index idx_tasks_created_at on tasks
CREATE INDEX idx_tasks_created_at ON tasks USING btree (created_at);

--- index idx_tasks_domain on tasks
CREATE INDEX idx_tasks_domain ON tasks USING btree (domain);

--- index idx_tasks_last_heartbeat on tasks
CREATE INDEX idx_tasks_last_heartbeat ON tasks USING btree (last_heartbeat);

--- index idx_tasks_lease_expires_at on tasks
CREATE INDEX idx_tasks_lease_expires_at ON tasks USING btree (lease_expires_at);

--- index idx_tasks_locked_at on tasks
CREATE INDEX idx_tasks_locked_at ON tasks USING btree (locked_at);

--- index idx_tasks_owner_id on tasks
CREATE INDEX idx_tasks_owner_id ON tasks USING btree (owner_id);

--- index idx_tasks_owner_status on tasks
CREATE INDEX idx_tasks_owner_status ON tasks USING btree (owner_id, status, last_heartbeat) WHERE owner_id IS NOT NULL;

--- index idx_tasks_run_after on tasks
CREATE INDEX idx_tasks_run_after ON tasks USING btree (run_after);

--- index idx_tasks_stale_running on tasks
CREATE INDEX idx_tasks_stale_running ON tasks USING btree (status, updated_at, last_heartbeat, lease_expires_at) WHERE status = 'running'::taskstatus;

--- index idx_tasks_status on tasks
CREATE INDEX idx_tasks_status ON tasks USING btree (status);

--- index idx_tasks_type on tasks
CREATE INDEX idx_tasks_type ON tasks USING btree (type);

--- function backfill_task_nodes()
CREATE OR REPLACE FUNCTION backfill_task_nodes()
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
DECLARE
    v_mapped integer;
BEGIN
    INSERT INTO graph_node_map (node_type, ext_table, ext_uuid)
    SELECT 'task', 'tasks', task.id FROM tasks AS task
    ON CONFLICT (node_type, ext_table, ext_uuid) DO NOTHING;
    GET DIAGNOSTICS v_mapped = ROW_COUNT;
    RETURN v_mapped;
END
$function$;

--- function cleanup_stale_running_tasks(integer, integer)
CREATE OR REPLACE FUNCTION cleanup_stale_running_tasks(stale_minutes integer DEFAULT 15, max_attempts integer DEFAULT 3)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
DECLARE
    v_requeued integer;
BEGIN
    UPDATE tasks
    SET status = 'queued', attempts = attempts + 1,
        owner_id = NULL, locked_by = NULL, locked_at = NULL, lease_expires_at = NULL, updated_at = now(),
        error = concat_ws(' | ', error, 'requeued: stale while running')
    WHERE status = 'running' AND updated_at < now() - make_interval(mins => stale_minutes) AND attempts < max_attempts;
    GET DIAGNOSTICS v_requeued = ROW_COUNT;
    UPDATE tasks
    SET status = 'failed', owner_id = NULL, locked_by = NULL, locked_at = NULL, lease_expires_at = NULL, updated_at = now(),
        error = concat_ws(' | ', error, 'failed: requeued too often')
    WHERE status = 'running' AND updated_at < now() - make_interval(mins => stale_minutes);
    RETURN v_requeued;
END
$function$;
COMMENT ON FUNCTION cleanup_stale_running_tasks(integer, integer) IS 'Requeues tasks that have been running for too long; returns how many.';

--- function create_graph_embed_task(integer[], integer, text)
CREATE OR REPLACE FUNCTION create_graph_embed_task(start_node_ids integer[], k_hops integer DEFAULT 2, description text DEFAULT NULL::text)
 RETURNS uuid
 LANGUAGE plpgsql
AS $function$
DECLARE
    v_task uuid;
BEGIN
    INSERT INTO tasks (type, status, description, params)
    VALUES ('graph_embed', 'queued', coalesce(create_graph_embed_task.description, format('Embed %s-hop neighborhood around nodes %s', k_hops, array_to_string(start_node_ids, ', '))),
            jsonb_build_object('start_ids', start_node_ids, 'k', k_hops))
    RETURNING id INTO v_task;
    RETURN v_task;
END
$function$;

--- function create_graph_embed_task_v2(integer[], integer, text, text, text)
CREATE OR REPLACE FUNCTION create_graph_embed_task_v2(start_node_ids integer[], k_hops integer DEFAULT 2, description text DEFAULT NULL::text, p_agent_id text DEFAULT NULL::text, p_organ_id text DEFAULT NULL::text)
 RETURNS uuid
 LANGUAGE plpgsql
AS $function$
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
$function$;

--- function create_graph_rag_task(integer[], integer, integer, text)
CREATE OR REPLACE FUNCTION create_graph_rag_task(start_node_ids integer[], k_hops integer DEFAULT 2, top_k integer DEFAULT 10, description text DEFAULT NULL::text)
 RETURNS uuid
 LANGUAGE plpgsql
AS $function$
DECLARE
    v_task uuid;
BEGIN
    INSERT INTO tasks (type, status, description, params)
    VALUES ('graph_rag_query', 'queued', coalesce(create_graph_rag_task.description, format('RAG query %s-hop neighborhood around nodes %s, top %s', k_hops, array_to_string(start_node_ids, ', '), top_k)),
            jsonb_build_object('start_ids', start_node_ids, 'k', k_hops, 'topk', top_k))
    RETURNING id INTO v_task;
    RETURN v_task;
END
$function$;

--- function create_graph_rag_task_v2(integer[], integer, integer, text, text, text)
CREATE OR REPLACE FUNCTION create_graph_rag_task_v2(start_node_ids integer[], k_hops integer DEFAULT 2, top_k integer DEFAULT 10, description text DEFAULT NULL::text, p_agent_id text DEFAULT NULL::text, p_organ_id text DEFAULT NULL::text)
 RETURNS uuid
 LANGUAGE plpgsql
AS $function$
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
$function$;

--- function ensure_agent_node(text)
CREATE OR REPLACE FUNCTION ensure_agent_node(p_agent_id text)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
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
$function$;

--- function ensure_fact_node(uuid)
CREATE OR REPLACE FUNCTION ensure_fact_node(p_fact_id uuid)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
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
$function$;

--- function ensure_model_node(text)
CREATE OR REPLACE FUNCTION ensure_model_node(p_name text)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
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
$function$;

--- function ensure_organ_node(text)
CREATE OR REPLACE FUNCTION ensure_organ_node(p_organ_id text)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
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
$function$;

--- function ensure_policy_node(text)
CREATE OR REPLACE FUNCTION ensure_policy_node(p_name text)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
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
$function$;

--- function ensure_service_node(text)
CREATE OR REPLACE FUNCTION ensure_service_node(p_name text)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
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
$function$;

--- function ensure_skill_node(text)
CREATE OR REPLACE FUNCTION ensure_skill_node(p_name text)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
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
$function$;

--- function ensure_task_node(uuid)
CREATE OR REPLACE FUNCTION ensure_task_node(p_task_id uuid)
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
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
$function$;

--- function update_facts_updated_at()
CREATE OR REPLACE FUNCTION update_facts_updated_at()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$function$;

--- function update_graph_node_map_updated_at()
CREATE OR REPLACE FUNCTION update_graph_node_map_updated_at()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$function$;

--- function update_tasks_updated_at()
CREATE OR REPLACE FUNCTION update_tasks_updated_at()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$function$;

--- function update_timestamps()
CREATE OR REPLACE FUNCTION update_timestamps()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$function$;

--- view graph_tasks
CREATE OR REPLACE VIEW graph_tasks AS
 SELECT id,
    type,
    status,
    attempts,
    locked_by,
    locked_at,
    run_after,
    params,
    result,
    error,
    created_at,
    updated_at,
    drift_score,
        CASE status
            WHEN 'completed'::taskstatus THEN '✅'::text
            WHEN 'running'::taskstatus THEN '🔄'::text
            WHEN 'queued'::taskstatus THEN '⏳'::text
            WHEN 'failed'::taskstatus THEN '❌'::text
            WHEN 'retry'::taskstatus THEN '🔄'::text
            WHEN 'created'::taskstatus THEN '📝'::text
            WHEN 'cancelled'::taskstatus THEN '❌'::text
            ELSE '❓'::text
        END AS status_emoji
   FROM tasks
  WHERE type = ANY (ARRAY['graph_embed'::text, 'graph_rag_query'::text])
  ORDER BY updated_at DESC;
COMMENT ON VIEW graph_tasks IS 'Tasks of the graph with a sign for their status.';

--- view hgnn_edges
CREATE OR REPLACE VIEW hgnn_edges AS
 SELECT src.node_id AS src_node_id,
    dst.node_id AS dst_node_id,
    'task__depends_on__task'::text AS edge_type
   FROM task_depends_on_task edge
     JOIN graph_node_map src ON src.node_type = 'task'::text AND src.ext_table = 'tasks'::text AND src.ext_uuid = edge.src_task_id
     JOIN graph_node_map dst ON dst.node_type = 'task'::text AND dst.ext_table = 'tasks'::text AND dst.ext_uuid = edge.dst_task_id
UNION ALL
 SELECT src.node_id AS src_node_id,
    dst.node_id AS dst_node_id,
    'task__produces__artifact'::text AS edge_type
   FROM task_produces_artifact edge
     JOIN graph_node_map src ON src.node_type = 'task'::text AND src.ext_table = 'tasks'::text AND src.ext_uuid = edge.task_id
     JOIN graph_node_map dst ON dst.node_type = 'artifact'::text AND dst.ext_table = 'artifact'::text AND dst.ext_uuid = edge.artifact_id
UNION ALL
 SELECT src.node_id AS src_node_id,
    dst.node_id AS dst_node_id,
    'task__uses__capability'::text AS edge_type
   FROM task_uses_capability edge
     JOIN graph_node_map src ON src.node_type = 'task'::text AND src.ext_table = 'tasks'::text AND src.ext_uuid = edge.task_id
     JOIN graph_node_map dst ON dst.node_type = 'capability'::text AND dst.ext_table = 'capability'::text AND dst.ext_uuid = edge.capability_id
UNION ALL
 SELECT src.node_id AS src_node_id,
    dst.node_id AS dst_node_id,
    'task__reads__memory_cell'::text AS edge_type
   FROM task_reads_memory edge
     JOIN graph_node_map src ON src.node_type = 'task'::text AND src.ext_table = 'tasks'::text AND src.ext_uuid = edge.task_id
     JOIN graph_node_map dst ON dst.node_type = 'memory_cell'::text AND dst.ext_table = 'memory_cell'::text AND dst.ext_uuid = edge.memory_cell_id
UNION ALL
 SELECT src.node_id AS src_node_id,
    dst.node_id AS dst_node_id,
    'task__writes__memory_cell'::text AS edge_type
   FROM task_writes_memory edge
     JOIN graph_node_map src ON src.node_type = 'task'::text AND src.ext_table = 'tasks'::text AND src.ext_uuid = edge.task_id
     JOIN graph_node_map dst ON dst.node_type = 'memory_cell'::text AND dst.ext_table = 'memory_cell'::text AND dst.ext_uuid = edge.memory_cell_id
UNION ALL
 SELECT src.node_id AS src_node_id,
    dst.node_id AS dst_node_id,
    'task__executed_by__organ'::text AS edge_type
   FROM task_executed_by_organ edge
     JOIN graph_node_map src ON src.node_type = 'task'::text AND src.ext_table = 'tasks'::text AND src.ext_uuid = edge.task_id
     JOIN graph_node_map dst ON dst.node_type = 'organ'::text AND dst.ext_table = 'organ_registry'::text AND dst.ext_text_id = edge.organ_id
UNION ALL
 SELECT src.node_id AS src_node_id,
    dst.node_id AS dst_node_id,
    'task__owned_by__agent'::text AS edge_type
   FROM task_owned_by_agent edge
     JOIN graph_node_map src ON src.node_type = 'task'::text AND src.ext_table = 'tasks'::text AND src.ext_uuid = edge.task_id
     JOIN graph_node_map dst ON dst.node_type = 'agent'::text AND dst.ext_table = 'agent_registry'::text AND dst.ext_text_id = edge.agent_id
UNION ALL
 SELECT src.node_id AS src_node_id,
    dst.node_id AS dst_node_id,
    'agent__member_of__organ'::text AS edge_type
   FROM agent_member_of_organ edge
     JOIN graph_node_map src ON src.node_type = 'agent'::text AND src.ext_table = 'agent_registry'::text AND src.ext_text_id = edge.agent_id
     JOIN graph_node_map dst ON dst.node_type = 'organ'::text AND dst.ext_table = 'organ_registry'::text AND dst.ext_text_id = edge.organ_id
UNION ALL
 SELECT src.node_id AS src_node_id,
    dst.node_id AS dst_node_id,
    'agent__collab__agent'::text AS edge_type
   FROM agent_collab_agent edge
     JOIN graph_node_map src ON src.node_type = 'agent'::text AND src.ext_table = 'agent_registry'::text AND src.ext_text_id = edge.src_agent
     JOIN graph_node_map dst ON dst.node_type = 'agent'::text AND dst.ext_table = 'agent_registry'::text AND dst.ext_text_id = edge.dst_agent
UNION ALL
 SELECT src.node_id AS src_node_id,
    dst.node_id AS dst_node_id,
    'organ__provides__skill'::text AS edge_type
   FROM organ_provides_skill edge
     JOIN graph_node_map src ON src.node_type = 'organ'::text AND src.ext_table = 'organ_registry'::text AND src.ext_text_id = edge.organ_id
     JOIN graph_node_map dst ON dst.node_type = 'skill'::text AND dst.ext_table = 'skill'::text AND dst.ext_text_id = edge.skill_name
UNION ALL
 SELECT src.node_id AS src_node_id,
    dst.node_id AS dst_node_id,
    'organ__uses__service'::text AS edge_type
   FROM organ_uses_service edge
     JOIN graph_node_map src ON src.node_type = 'organ'::text AND src.ext_table = 'organ_registry'::text AND src.ext_text_id = edge.organ_id
     JOIN graph_node_map dst ON dst.node_type = 'service'::text AND dst.ext_table = 'service'::text AND dst.ext_text_id = edge.service_name
UNION ALL
 SELECT src.node_id AS src_node_id,
    dst.node_id AS dst_node_id,
    'organ__governed_by__policy'::text AS edge_type
   FROM organ_governed_by_policy edge
     JOIN graph_node_map src ON src.node_type = 'organ'::text AND src.ext_table = 'organ_registry'::text AND src.ext_text_id = edge.organ_id
     JOIN graph_node_map dst ON dst.node_type = 'policy'::text AND dst.ext_table = 'policy'::text AND dst.ext_text_id = edge.policy_name
UNION ALL
 SELECT src.node_id AS src_node_id,
    dst.node_id AS dst_node_id,
    'agent__uses__model'::text AS edge_type
   FROM agent_uses_model edge
     JOIN graph_node_map src ON src.node_type = 'agent'::text AND src.ext_table = 'agent_registry'::text AND src.ext_text_id = edge.agent_id
     JOIN graph_node_map dst ON dst.node_type = 'model'::text AND dst.ext_table = 'model'::text AND dst.ext_text_id = edge.model_name
UNION ALL
 SELECT src.node_id AS src_node_id,
    dst.node_id AS dst_node_id,
    'task__reads__fact'::text AS edge_type
   FROM task_reads_fact edge
     JOIN graph_node_map src ON src.node_type = 'task'::text AND src.ext_table = 'tasks'::text AND src.ext_uuid = edge.task_id
     JOIN graph_node_map dst ON dst.node_type = 'fact'::text AND dst.ext_table = 'facts'::text AND dst.ext_uuid = edge.fact_id
UNION ALL
 SELECT src.node_id AS src_node_id,
    dst.node_id AS dst_node_id,
    'task__produces__fact'::text AS edge_type
   FROM task_produces_fact edge
     JOIN graph_node_map src ON src.node_type = 'task'::text AND src.ext_table = 'tasks'::text AND src.ext_uuid = edge.task_id
     JOIN graph_node_map dst ON dst.node_type = 'fact'::text AND dst.ext_table = 'facts'::text AND dst.ext_uuid = edge.fact_id;
COMMENT ON VIEW hgnn_edges IS 'All edges between nodes of graph_node_map; an edge whose ends are not mapped is left out.';

--- trigger trg_agent_registry_updated_at on agent_registry
CREATE TRIGGER trg_agent_registry_updated_at BEFORE UPDATE ON agent_registry FOR EACH ROW EXECUTE FUNCTION update_timestamps();

--- trigger trg_graph_node_map_updated_at on graph_node_map
CREATE TRIGGER trg_graph_node_map_updated_at BEFORE UPDATE ON graph_node_map FOR EACH ROW EXECUTE FUNCTION update_graph_node_map_updated_at();

--- trigger trg_model_updated_at on model
CREATE TRIGGER trg_model_updated_at BEFORE UPDATE ON model FOR EACH ROW EXECUTE FUNCTION update_timestamps();

--- trigger trg_organ_registry_updated_at on organ_registry
CREATE TRIGGER trg_organ_registry_updated_at BEFORE UPDATE ON organ_registry FOR EACH ROW EXECUTE FUNCTION update_timestamps();

--- trigger trg_policy_updated_at on policy
CREATE TRIGGER trg_policy_updated_at BEFORE UPDATE ON policy FOR EACH ROW EXECUTE FUNCTION update_timestamps();

--- trigger trg_service_updated_at on service
CREATE TRIGGER trg_service_updated_at BEFORE UPDATE ON service FOR EACH ROW EXECUTE FUNCTION update_timestamps();

--- trigger trg_skill_updated_at on skill
CREATE TRIGGER trg_skill_updated_at BEFORE UPDATE ON skill FOR EACH ROW EXECUTE FUNCTION update_timestamps();

--- trigger trigger_facts_updated_at on facts
CREATE TRIGGER trigger_facts_updated_at BEFORE UPDATE ON facts FOR EACH ROW EXECUTE FUNCTION update_facts_updated_at();

--- trigger trigger_tasks_updated_at on tasks
CREATE TRIGGER trigger_tasks_updated_at BEFORE UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION update_tasks_updated_at();
