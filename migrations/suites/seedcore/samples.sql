-- The sample rows of SeedCore's scripts, by fixed keys: a second run adds none.

INSERT INTO facts (id, text, tags, meta_data)
VALUES
    ('5eedc04e-0000-4000-8000-000000000001', 'A fact about the system itself', '{system}', '{"source": "samples"}'),
    ('5eedc04e-0000-4000-8000-000000000002', 'A fact with two tags', '{database,json}', '{"source": "samples"}'),
    ('5eedc04e-0000-4000-8000-000000000003', 'A fact without tags', '{}', '{"source": "samples"}')
ON CONFLICT (id) DO NOTHING;

DO $$
BEGIN
    IF to_regclass('holons') IS NOT NULL THEN
        INSERT INTO holons (uuid, embedding, meta)
        SELECT ('5eedc04e-0000-4000-8000-00000000001' || n)::uuid, array_fill(n / 10.0, ARRAY[768])::vector,
               jsonb_build_object('type', 'sample')
        FROM generate_series(1, 3) AS n
        ON CONFLICT (uuid) DO NOTHING;
    END IF;
END
$$;
