-- muster_may_expire: Whether a lease may be declared dead for silence by a statement that is not musterd's: by
-- expire_stale_instances() of SeedCore, which its deployments restore.
--
-- That function knows neither TTL nor hold, and expires all silent leases at once. A row with a TTL may die when its deadline
-- has passed; a row without one when the caller says so. None dies under an operator's hold, within its TTL and grace_ms
-- after a disruption, or while a daemon flushes: the daemon decides deaths then, with the brake. The last flush of a daemon
-- that is gone counts like a disruption that lasted until its eviction.

CREATE OR REPLACE FUNCTION muster_may_expire(p_row registry_instance, p_cluster cluster_metadata, p_now timestamptz)
RETURNS boolean
LANGUAGE sql
STABLE
AS $$
    SELECT p_row.cluster_epoch <> p_cluster.current_epoch
        OR NOT coalesce(p_cluster.held_until > p_now AND p_cluster.hold_until > p_now, false)
       AND muster_deadline(
               coalesce(
                   greatest(
                       CASE WHEN p_row.ttl_ms IS NOT NULL THEN p_row.last_heartbeat END,
                       muster_heard_as_of(p_now, p_cluster.hold_until, p_cluster.disrupted_at),
                       (
                           SELECT max(daemon.last_flush) FROM registry_daemon AS daemon
                           WHERE daemon.last_flush <= p_now + limits.evicted_after_ms * interval '1 millisecond'
                       ) + (limits.evicted_after_ms + limits.grace_ms) * interval '1 millisecond'
                   ),
                   '-infinity'
               ),
               p_row.ttl_ms
           ) < p_now
    FROM muster_limits() AS limits;
$$;

COMMENT ON FUNCTION muster_may_expire(registry_instance, cluster_metadata, timestamptz) IS 'Whether a lease may be declared dead for silence by a statement that is not musterd''s.';
