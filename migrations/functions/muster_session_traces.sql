-- muster_session_traces: What a hook could leave in the session that calls it, as one text that is compared before and after:
-- settings, prepared statements, cursors, channels, temporary objects. The session belongs to a daemon or another caller,
-- which has other rights than the hook.
--
-- Without a search path of its own, because the setting is one of those that it compares.

CREATE OR REPLACE FUNCTION muster_session_traces()
RETURNS text
LANGUAGE sql
VOLATILE
AS $$
    SELECT md5(concat_ws('|',
        (SELECT string_agg(name || '=' || setting, ',' ORDER BY name) FROM pg_settings),
        current_setting('musterd.session', true),
        (SELECT string_agg(name || prepare_time::text || statement, ',' ORDER BY name) FROM pg_prepared_statements),
        (SELECT string_agg(name, ',' ORDER BY name) FROM pg_cursors),
        (SELECT string_agg(channel, ',' ORDER BY channel) FROM pg_listening_channels() AS channel),
        (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
        (SELECT count(*) FROM pg_type WHERE typnamespace = pg_my_temp_schema())
    ));
$$;

COMMENT ON FUNCTION muster_session_traces() IS 'What a hook could leave in the session that calls it, as one text that is compared before and after.';
