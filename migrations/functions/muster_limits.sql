-- muster_limits: The numbers that expiry is decided by, each in this one place. The daemon's own constants and the check
-- of ttl_ms agree with them, by a test.

CREATE OR REPLACE FUNCTION muster_limits()
RETURNS TABLE (
    ttl_min_ms            bigint,  -- Shortest TTL.
    ttl_max_ms            bigint,  -- Longest TTL.
    ttl_default_ms        bigint,  -- TTL of a lease that asked for none.
    stalled_after_ms      bigint,  -- A daemon that has not flushed for longer may have beats that are not saved: no lease expires.
    evicted_after_ms      bigint,  -- A daemon that has not flushed for longer is evicted, and its beats count as lost.
    loss_kept_ms          bigint,  -- How long the eviction is reported.
    grace_ms              bigint,  -- After a disruption a lease has its TTL and this long.
    hold_max_ms           bigint,  -- An operator's longest hold.
    window_ms             bigint,  -- Deaths are counted over windows of this length,
    window_deaths_min     bigint,  -- and limited to this many in each,
    window_deaths_percent bigint,  -- or to this share of the live leases, if that is more.
    protect_ms            bigint,  -- How long no lease expires while most are silent.
    settle_ms             bigint,  -- How long a death waits until it is clear whether the other leases are silent too.
    tolerance_ms          bigint,  -- By how much a beat may be later than a third of the TTL and not count as missed.
    future_ms             bigint,  -- A beat that lies further in the future was stamped by no clock.
    suspicions_max        bigint,  -- How many suspicions daemons exchange at a time.
    history_gap           bigint   -- By how many revisions a new history begins later than what is known of the old one.
)
LANGUAGE sql
IMMUTABLE
AS $$
    SELECT 2000::bigint, 300000::bigint, 15000::bigint,
           3000::bigint, 15000::bigint, 3600000::bigint,
           5000::bigint, 3600000::bigint,
           15000::bigint, 10::bigint, 15::bigint,
           600000::bigint, 1000::bigint, 500::bigint,
           60000::bigint, 10000::bigint, 1000000::bigint;
$$;

COMMENT ON FUNCTION muster_limits() IS 'The numbers that expiry is decided by, each in this one place.';
