-- muster_run_hooks: Runs these hooks for at most p_limit deaths that are due, and marks them in the same transaction: what is
-- freed is freed once. Deaths that another transaction has claimed are passed over.
--
-- A death is released when all hooks, also those that wait, have succeeded; a hook that fails holds back no other. Deaths that
-- have failed equally often are taken together, and after each failure in smaller batches, so that one lease that makes a
-- hook fail does not hold back the others: all, a tenth, a hundredth, a thousandth, and from the beginning.

CREATE OR REPLACE FUNCTION muster_run_hooks(p_hooks registry_hook[], p_limit integer)
RETURNS TABLE (
    hook       text,
    deaths     integer,
    released   integer,
    freed      bigint,
    elapsed_ms double precision,
    failure    text
)
LANGUAGE plpgsql
VOLATILE
AS $$
#variable_conflict use_column
DECLARE
    v_names    text[] := ARRAY(SELECT one.name FROM unnest(p_hooks) AS one);
    v_all      text[] := ARRAY(SELECT every.name FROM registry_hook AS every);
    v_now      timestamptz := muster_now();
    v_attempts integer;
    v_claimed  bigint[];
    v_ids      bigint[];
    v_hook     registry_hook;
    v_began    timestamptz;
    v_ran      record;
BEGIN
    IF cardinality(v_names) = 0 THEN
        RETURN;
    END IF;
    SELECT death.attempts INTO v_attempts
    FROM registry_death AS death
    WHERE death.released_at IS NULL AND NOT death.hooks_done @> v_names
      AND (death.next_attempt_at IS NULL OR death.next_attempt_at <= v_now)
    ORDER BY death.attempts, death.lease_id
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    v_claimed := ARRAY(
        SELECT death.lease_id
        FROM registry_death AS death
        WHERE death.released_at IS NULL AND NOT death.hooks_done @> v_names AND death.attempts = v_attempts
          AND (death.next_attempt_at IS NULL OR death.next_attempt_at <= v_now)
        ORDER BY death.lease_id
        LIMIT greatest(1, p_limit / (10 ^ (v_attempts % 4))::integer)
        FOR UPDATE SKIP LOCKED
    );
    FOREACH v_hook IN ARRAY p_hooks
    LOOP
        v_ids := ARRAY(
            SELECT death.lease_id
            FROM registry_death AS death
            WHERE death.lease_id = ANY (v_claimed) AND NOT v_hook.name = ANY (death.hooks_done)
            ORDER BY death.lease_id
        );
        CONTINUE WHEN cardinality(v_ids) = 0;
        v_began := clock_timestamp();
        v_ran := muster_run_hook(v_hook, v_ids);
        hook := v_hook.name;
        deaths := cardinality(v_ids);
        released := 0;
        freed := coalesce(v_ran.freed, 0);
        elapsed_ms := extract(epoch FROM clock_timestamp() - v_began) * 1000;
        failure := v_ran.failure;
        IF v_ran.failure IS NULL THEN
            WITH marked AS (
                UPDATE registry_death AS death
                SET hooks_done = death.hooks_done || v_hook.name,
                    freed = coalesce(death.freed, 0) + CASE WHEN death.lease_id = v_ids[1] THEN v_ran.freed ELSE 0 END,
                    released_at = CASE WHEN death.hooks_done || v_hook.name @> v_all THEN muster_now() END
                WHERE death.lease_id = ANY (v_ids)
                RETURNING death.released_at
            )
            SELECT count(marked.released_at) INTO released FROM marked;
        ELSE
            UPDATE registry_death AS death
            SET attempts = death.attempts + 1,
                next_attempt_at = muster_now() + least(30, 2 ^ least(death.attempts, 5)) * interval '1 second',
                last_error = left(format('hook %s: %s', v_hook.name, v_ran.failure), 1000)
            WHERE death.lease_id = ANY (v_ids);
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON FUNCTION muster_run_hooks(registry_hook[], integer) IS 'Runs these hooks for at most p_limit deaths that are due, and marks them in the same transaction.';
REVOKE ALL ON FUNCTION muster_run_hooks(registry_hook[], integer) FROM PUBLIC;
