-- 015: membership changes: register, change status, deregister.
--
-- There is one way to change membership, muster_apply, for daemons and for SQL callers alike. It takes a group of
-- operations, so that a daemon can make many of them durable with one commit, and answers each with a verdict instead
-- of an error, so that one refused operation does not undo the others of its group.
--
-- Oldest head: 019.

CREATE TYPE muster_operation AS (
    op            text,
    instance_id   uuid,
    lease_id      bigint,
    logical_id    text,
    cluster_epoch uuid,
    status        InstanceStatus,
    actor_name    text,
    serve_route   text,
    node_id       text,
    ip_address    inet,
    port          integer,
    pid           integer,
    version       text,
    labels        jsonb,
    ttl_ms        integer,
    reason        text,
    may_move      boolean,
    identity      text,
    as_operator   boolean
);

COMMENT ON TYPE muster_operation IS 'One change asked for. op: register, or status (with the new status; dead ends the lease, for the reason given). may_move: a repeated registration may change a known address; for SQL callers. identity: who asks, and owner of what is registered; null if the daemon has no policy. as_operator: the status of an instance of another owner may be changed.';

CREATE TYPE muster_outcome AS (
    verdict     text,
    changed     boolean,
    instance_id uuid,
    lease_id    bigint,
    revision    bigint,
    status      InstanceStatus,
    ttl_ms      integer
);

COMMENT ON TYPE muster_outcome IS 'What became of it. verdict: created, renewed, replaced (a registration); set (a status); or the refusals epoch_fenced, taken, unknown, expired, lease_replaced, invalid_transition, invalid. changed: whether a revision was used.';

\ir functions/muster_owner_of.sql
\ir functions/muster_owner_agrees.sql
\ir functions/muster_same_owner.sql
\ir functions/muster_moves.sql
\ir functions/muster_apply_register.sql
\ir functions/muster_renew_registration.sql
\ir functions/muster_apply_status.sql
\ir functions/muster_register_new.sql
\ir functions/muster_apply.sql
\ir functions/muster_apply_one.sql
