-- The statements that find and mend what doesn't fit between Postgres and Vault after a restore. See `queries.sql`.

-- name: key_uses
-- Each by the index on its version alone.
SELECT f.transit_key AS key, f.min_version AS floor,
       greatest(coalesce(present.version, 0), coalesce(kept.version, 0)) AS highest_version
FROM public.key_floors f
LEFT JOIN LATERAL (
    SELECT max(c.transit_key_version) AS version FROM public.credentials c WHERE c.transit_key = f.transit_key
) present ON true
LEFT JOIN LATERAL (
    SELECT max(c.previous_transit_key_version) AS version FROM public.credentials c
    WHERE c.transit_key = f.transit_key AND c.previous_transit_key_version IS NOT NULL
) kept ON true
WHERE f.transit_key = ANY($1::text[]);

-- name: count_above
SELECT count(*) FROM (
    SELECT FROM public.credentials WHERE transit_key = $1 AND transit_key_version > $2 LIMIT $3
) AS above;

-- name: first_above
SELECT id FROM public.credentials WHERE transit_key = $1 AND transit_key_version > $2
ORDER BY transit_key_version, created_at, id LIMIT $3;

-- name: pinned_before_made
-- Of each version by the index that has pins in order: where nothing is wrong, the oldest pin of each is all it reads.
SELECT count(*) AS many, (array_agg(early.id))[1:$5] AS first_ids FROM (
    SELECT c.id FROM unnest($2::integer[], $3::timestamptz[]) AS made (version, at)
    CROSS JOIN LATERAL (
        SELECT k.id FROM public.credentials k
        WHERE k.transit_key = $1 AND k.transit_key_version = made.version AND k.pinned_at < made.at
        ORDER BY k.pinned_at LIMIT $4
    ) AS c LIMIT $4
) AS early;

-- name: newest_pins
SELECT * FROM public.credentials ORDER BY pinned_at DESC, id DESC LIMIT $1;

-- name: newest_pins_of
-- By the index that has each version's pins in order, however few of all rows are under this key.
SELECT c.* FROM (
    SELECT max(k.transit_key_version) AS highest FROM public.credentials k WHERE k.transit_key = $1
) AS used
CROSS JOIN LATERAL generate_series(1, used.highest) AS each (version)
CROSS JOIN LATERAL (
    SELECT k.* FROM public.credentials k
    WHERE k.transit_key = $1 AND k.transit_key_version = each.version ORDER BY k.pinned_at DESC LIMIT $2
) AS c
ORDER BY c.pinned_at DESC, c.id DESC LIMIT $2;

-- name: intended_versions
SELECT kv_path, kv_version FROM public.write_intents WHERE kv_path = ANY($1::text[]) AND kv_version IS NOT NULL;

-- name: last_pinnings
-- After `become_auditor`. What pinned the row, the last first.
SELECT action FROM public.credential_events
WHERE credential_id = $1 AND outcome = 'done' AND action IN ('store', 'update', 'rollback', 'rewrap', 'reconcile')
ORDER BY at DESC, id DESC LIMIT $2;

-- name: repin
-- Guarded by all that the decision was made on. FOR SHARE of the floor: a retirement counts before this or after it.
-- Another secret than before is a
-- change that its owner sees; the same one elsewhere is none.
WITH before AS (
    SELECT c.* FROM public.credentials c JOIN public.key_floors f ON f.transit_key = c.transit_key
    WHERE c.id = $1 AND c.row_version = $2 AND c.kv_version = $3 AND c.secret_version = $4 AND c.secret_version <= $6
    FOR NO KEY UPDATE OF c FOR SHARE OF f
), discarded AS (
    INSERT INTO public.write_intents (id, credential_id, kv_path, kv_version, due_at)
    SELECT gen_random_uuid(), b.id, b.kv_path, version, now() + make_interval(hours => $12)
    FROM before b, unnest($11::integer[]) AS d (version)
), moved AS (
    UPDATE public.credentials c
    SET kv_version = $5, secret_version = $6, transit_key_version = $7,
        previous_kv_version = $8, previous_secret_version = $9, previous_transit_key_version = $10,
        previous_expires_at = CASE WHEN $8::integer IS NULL THEN NULL
                                   ELSE coalesce($13, now() + make_interval(hours => $12)) END,
        row_version = b.row_version + CASE WHEN b.secret_version <> $6 THEN 1 ELSE 0 END,
        validation_state = CASE WHEN b.secret_version <> $6 THEN 'unvalidated' ELSE b.validation_state END,
        account_type = CASE WHEN b.secret_version = $6 THEN b.account_type END,
        last_validated_at = CASE WHEN b.secret_version = $6 THEN b.last_validated_at END,
        updated_at = CASE WHEN b.secret_version <> $6 THEN clock_timestamp() ELSE b.updated_at END,
        broken_since = NULL, pinned_at = clock_timestamp()
    FROM before b WHERE c.id = b.id
    RETURNING c.*
), recorded AS (
    INSERT INTO public.credential_events (credential_id, user_id, account_id, actor, action, outcome, reason,
                                          transit_key, transit_key_version, batch_id)
    SELECT m.id, m.user_id, m.account_id, $14, 'reconcile', 'done',
           CASE WHEN m.secret_version <> $4 THEN 'newer_secret' ELSE 'same_secret' END,
           m.transit_key, m.transit_key_version, $15
    FROM moved m
)
SELECT * FROM moved;
