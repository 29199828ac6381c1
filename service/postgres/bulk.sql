-- The last transaction of many new credentials at once, for whoever stores so many.

-- name: insert_credentials
-- What `insert_credential` and the statements around it do for one, for each of these: its intent out, its key version at
-- or above the floor, row and event in. One that can't be inserted keeps its intent, and is told apart from the others:
-- `interrupted` (the intent is gone), `no_floor`, `below_floor`, `conflict`. FOR UPDATE: waits for reconciliation, should
-- it have taken the intent. FOR SHARE: holds retiring off until this is committed.
WITH given AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::integer[],
                         $8::bytea[], $9::text[], $10::text[], $11::integer[], $12::bigint[], $13::text[], $14::text[],
                         $15::timestamptz[], $16::boolean[], $17::timestamptz[], $18::uuid[], $19::text[], $20::text[],
                         $21::text[], $22::text[], $23::text[])
        WITH ORDINALITY
        AS g (id, user_id, account_id, credential_type, transit_mount, transit_key, transit_key_version,
              binding, kv_mount, kv_path, kv_version, secret_version, validation_state, account_type,
              last_validated_at, is_active, created_at, intent_id, acting_user, actor,
              action, outcome, request_id, n)
), held AS MATERIALIZED (
    SELECT id FROM public.write_intents WHERE id IN (SELECT intent_id FROM given) ORDER BY id FOR UPDATE
), floors AS MATERIALIZED (
    SELECT transit_key, min_version FROM public.key_floors
    WHERE transit_key IN (SELECT transit_key FROM given) ORDER BY transit_key FOR SHARE
), inserted AS (
    INSERT INTO public.credentials (id, user_id, account_id, credential_type, transit_mount, transit_key,
                                    transit_key_version, binding, kv_mount, kv_path, kv_version, secret_version,
                                    validation_state, account_type, last_validated_at, is_active, created_at, updated_at)
    SELECT g.id, user_id, account_id, credential_type, transit_mount, g.transit_key, transit_key_version, binding, kv_mount,
           kv_path, kv_version, secret_version, validation_state, account_type, last_validated_at, is_active,
           least(created_at, clock_timestamp()), clock_timestamp()
    FROM given g
    JOIN held h ON h.id = g.intent_id
    JOIN floors f ON f.transit_key = g.transit_key AND g.transit_key_version >= f.min_version
    ORDER BY n
    ON CONFLICT DO NOTHING
    RETURNING *
), done AS (
    -- By the binding, which no two have: the same id twice would be told of both.
    SELECT g.n, g.intent_id, g.acting_user, g.actor, g.action, g.outcome, g.request_id, i.*
    FROM given g JOIN inserted i ON i.id = g.id AND i.binding = g.binding
), ended AS (
    DELETE FROM public.write_intents WHERE id IN (SELECT intent_id FROM done)
), recorded AS (
    INSERT INTO public.credential_events (credential_id, user_id, account_id, acting_user, actor, action, outcome,
                                          transit_key, transit_key_version, request_id)
    SELECT id, user_id, account_id, acting_user, actor, action, outcome, transit_key, transit_key_version, request_id
    FROM done ORDER BY n
)
SELECT CASE WHEN d.id IS NOT NULL THEN NULL
            WHEN h.id IS NULL THEN 'interrupted'
            WHEN f.transit_key IS NULL THEN 'no_floor'
            WHEN g.transit_key_version < f.min_version THEN 'below_floor'
            ELSE 'conflict'
       END AS problem, d.*
FROM given g
LEFT JOIN held h ON h.id = g.intent_id
LEFT JOIN floors f ON f.transit_key = g.transit_key
LEFT JOIN done d ON d.n = g.n
ORDER BY g.n;
