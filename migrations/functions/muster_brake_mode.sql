-- muster_brake_mode: Decides how expiry is limited, by counts alone.
--
-- Of p_live leases, p_overdue have passed their deadlines, p_settled of them by settle_ms or more. p_silent have missed
-- two beats, and of p_heard a beat has arrived since the overdue ones should have beaten; of the others it is not known
-- yet. p_allowed may expire in this window. For p_protected_ms, more have been silent than heard.
--
-- Returns protect: two or more are silent, and more than are heard, so that a cut network is more likely than as many
-- crashes: no lease expires, for at most protect_ms. wait: those of which it is not known could decide that, and no lease
-- is overdue for long enough to decide without them: none expires yet. pace: more are overdue than may expire. Null: no
-- limit. One silent lease is no sign of a cut network, so a single crash is never protected.

CREATE OR REPLACE FUNCTION muster_brake_mode(
    p_live         bigint,
    p_overdue      bigint,
    p_settled      bigint,
    p_silent       bigint,
    p_heard        bigint,
    p_allowed      bigint,
    p_protected_ms bigint
)
RETURNS text
LANGUAGE sql
IMMUTABLE
AS $$
    SELECT CASE
        WHEN p_overdue <= 0 THEN NULL
        WHEN p_protected_ms < limits.protect_ms AND p_settled <= 0 AND unclear > 0
            AND p_silent <= p_heard + unclear AND p_heard < p_silent + unclear THEN 'wait'
        WHEN p_protected_ms < limits.protect_ms AND p_silent > 1 AND p_silent > p_heard THEN 'protect'
        WHEN p_overdue > p_allowed THEN 'pace'
    END
    FROM muster_limits() AS limits, LATERAL (SELECT greatest(p_live - p_silent - p_heard, 0) AS unclear) AS rest;
$$;

COMMENT ON FUNCTION muster_brake_mode(bigint, bigint, bigint, bigint, bigint, bigint, bigint) IS 'Decides how expiry is limited, by counts alone.';
