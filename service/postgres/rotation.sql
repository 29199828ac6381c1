-- The statements about transit keys, and about the jobs that rotate, rewrap and retire them. See `queries.sql`.

-- What the runtime reads of keys, and asks of whoever does the jobs (`key_store.py`).

-- name: key_version_uses
-- Counting takes one pass, over the table or its index `credentials_by_key_version`, which tells the oldest at once;
-- kept secrets are counted by the few rows that have one.
WITH present AS (
    SELECT transit_key_version AS version, count(*) AS credentials FROM public.credentials
    WHERE transit_key = $1 GROUP BY transit_key_version
), kept AS (
    SELECT previous_transit_key_version AS version, count(*) AS previous_secrets FROM public.credentials
    WHERE previous_expires_at IS NOT NULL AND transit_key = $1 GROUP BY previous_transit_key_version
)
SELECT version, coalesce(p.credentials, 0) AS credentials, coalesce(k.previous_secrets, 0) AS previous_secrets,
       oldest.id AS oldest_id, oldest.created_at AS oldest_created_at
FROM present p FULL JOIN kept k USING (version)
LEFT JOIN LATERAL (
    SELECT c.id, c.created_at FROM public.credentials c
    WHERE c.transit_key = $1 AND c.transit_key_version = p.version
    ORDER BY c.created_at, c.id LIMIT 1
) oldest ON true
ORDER BY version;

-- name: key_encryptions
-- After `become_auditor`. The condition is that of the index `credential_events_by_encryption`.
SELECT count(*) FROM public.credential_events
WHERE transit_key = $1 AND transit_key_version = $2
  AND outcome = 'done' AND action IN ('store', 'update', 'rollback', 'rewrap');

-- name: key_floor
SELECT min_version FROM public.key_floors WHERE transit_key = $1;

-- name: key_versions
SELECT version, created_at FROM public.key_versions WHERE transit_key = $1;

-- name: request_job
-- No row: one of this kind is under way for the key, or the key is not this installation's.
INSERT INTO public.jobs (kind, transit_key, below_version, requested_by, request_id)
SELECT $1, f.transit_key, $3, $4, $5 FROM public.key_floors f WHERE f.transit_key = $2
ON CONFLICT (transit_key, kind) WHERE state IN ('waiting', 'running') DO NOTHING
RETURNING *;

-- name: job_under_way
SELECT * FROM public.jobs WHERE transit_key = $1 AND kind = $2 AND state IN ('waiting', 'running');

-- name: get_job
SELECT * FROM public.jobs WHERE id = $1;

-- name: page_jobs
SELECT * FROM public.jobs WHERE transit_key = $1 ORDER BY requested_at DESC, id LIMIT $2;

-- name: job_failures
SELECT credential_id, reason FROM public.job_failures WHERE job_id = $1 ORDER BY credential_id LIMIT $2;

-- name: request_stop
-- The first who asks is the one who is named.
UPDATE public.jobs SET stop_requested_by = $2
WHERE id = $1 AND state IN ('waiting', 'running') AND stop_requested_by IS NULL
RETURNING *;

-- What whoever does the jobs reads and writes, as the rotator's role (`rotation_store.py`).

-- name: next_job
-- In turn: a rewrap can take hours, and nothing else is to wait for its end, nor for a job that doesn't get on.
WITH next AS (
    SELECT id FROM public.jobs WHERE state IN ('waiting', 'running')
    ORDER BY heartbeat_at NULLS FIRST, requested_at, id LIMIT 1
)
UPDATE public.jobs j
SET state = 'running', started_at = coalesce(started_at, clock_timestamp()), heartbeat_at = clock_timestamp()
FROM next WHERE j.id = next.id AND j.state IN ('waiting', 'running')
RETURNING j.*;

-- name: hold_job
-- An advisory lock and not the row's, which other transactions of the same job have to write. It ends with this
-- transaction, and so with the process.
SELECT pg_try_advisory_xact_lock(hashtextextended($1::text, 0));

-- name: note_job_start
-- The first to say is the one who counts: several workers may come here.
UPDATE public.jobs
SET from_version = coalesce(from_version, $2), to_version = coalesce(to_version, $3),
    total = coalesce(total, CASE WHEN kind = 'rewrap' THEN (
        SELECT count(*) FROM public.credentials c
        WHERE c.transit_key = jobs.transit_key
          AND (c.transit_key_version < $3 OR c.previous_transit_key_version < $3)) END)
WHERE id = $1
RETURNING *;

-- name: note_key_versions
-- Of a version that was noted before, the first date stays.
INSERT INTO public.key_versions (transit_key, version, created_at)
SELECT $1, version, created_at FROM unnest($2::integer[], $3::timestamptz[]) AS given (version, created_at)
ON CONFLICT DO NOTHING;

-- name: end_job
-- The event of a rewrap's end names no version: each credential's own event does, and encryptions are counted by these.
WITH ended AS (
    UPDATE public.jobs
    SET state = CASE WHEN $2::text IS NULL THEN 'done' ELSE 'failed' END, reason = $2,
        to_version = coalesce($3, to_version), ended_at = clock_timestamp(), heartbeat_at = clock_timestamp()
    WHERE id = $1 AND state IN ('waiting', 'running')
    RETURNING *
)
INSERT INTO public.credential_events (actor, action, outcome, reason, transit_key, transit_key_version, request_id)
SELECT requested_by, kind, state, reason, transit_key,
       CASE kind WHEN 'rotate' THEN to_version WHEN 'retire' THEN below_version END, request_id
FROM ended;

-- name: take_rewrap
-- By id, from after the cursor, so that a pass over a table of any size reads it once. What others hold is theirs.
SELECT c.* FROM public.credentials c
WHERE c.transit_key = $1 AND c.id > $3 AND (c.transit_key_version < $2 OR c.previous_transit_key_version < $2)
  AND NOT EXISTS (SELECT FROM public.job_failures f WHERE f.job_id = $4 AND f.credential_id = c.id)
ORDER BY c.id LIMIT $5
FOR NO KEY UPDATE OF c SKIP LOCKED;

-- name: insert_intents
INSERT INTO public.write_intents (id, credential_id, kv_path, kv_version, due_at)
SELECT id, credential_id, kv_path, kv_version, now() + make_interval(secs => $5)
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::integer[]) AS given (id, credential_id, kv_path, kv_version);

-- name: delete_intents
DELETE FROM public.write_intents WHERE id = ANY($1::uuid[]) RETURNING id;

-- name: move_rewrapped
-- The rows are this transaction's, so what is read here of what was pinned before is still so. It is left to
-- reconciliation for as long as a kept secret would be: a Postgres restored to a little earlier finds it there.
WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::integer[], $3::integer[], $4::integer[], $5::integer[])
        AS g (id, kv_version, transit_key_version, previous_kv_version, previous_transit_key_version)
), discarded AS (
    INSERT INTO public.write_intents (id, credential_id, kv_path, kv_version, due_at)
    SELECT gen_random_uuid(), c.id, c.kv_path, old.kv_version, now() + make_interval(hours => $6)
    FROM given g JOIN public.credentials c ON c.id = g.id
    CROSS JOIN LATERAL (VALUES (c.kv_version), (c.previous_kv_version)) AS old (kv_version)
    WHERE old.kv_version NOT IN (g.kv_version, coalesce(g.previous_kv_version, g.kv_version))
), moved AS (
    UPDATE public.credentials c
    SET kv_version = g.kv_version, transit_key_version = g.transit_key_version,
        previous_kv_version = g.previous_kv_version, previous_transit_key_version = g.previous_transit_key_version,
        pinned_at = clock_timestamp()
    FROM given g WHERE c.id = g.id
    RETURNING c.id, c.user_id, c.account_id, c.transit_key, c.transit_key_version
), recorded AS (
    INSERT INTO public.credential_events (credential_id, user_id, account_id, actor, action, outcome, transit_key,
                                          transit_key_version, batch_id, request_id)
    SELECT id, user_id, account_id, $7, 'rewrap', 'done', transit_key, transit_key_version, $8::uuid, $9 FROM moved
)
SELECT id FROM moved;

-- name: note_failures
-- Each with its event. One that is noted already stays as it was.
WITH given AS (
    SELECT * FROM unnest($2::uuid[], $3::text[]) AS g (credential_id, reason)
), noted AS (
    INSERT INTO public.job_failures (job_id, credential_id, reason)
    SELECT $1, credential_id, reason FROM given ON CONFLICT DO NOTHING
    RETURNING credential_id, reason
)
INSERT INTO public.credential_events (credential_id, user_id, account_id, actor, action, outcome, reason, transit_key,
                                      transit_key_version, batch_id, request_id)
SELECT c.id, c.user_id, c.account_id, $4, 'rewrap', 'failed', n.reason, c.transit_key, c.transit_key_version, $5::uuid, $6
FROM noted n JOIN public.credentials c ON c.id = n.credential_id;

-- name: count_rewrapped
UPDATE public.jobs SET done = done + $2, failed = failed + $3, heartbeat_at = clock_timestamp() WHERE id = $1;

-- name: count_remaining
SELECT count(*) FROM public.credentials c
WHERE c.transit_key = $1 AND (c.transit_key_version < $2 OR c.previous_transit_key_version < $2)
  AND NOT EXISTS (SELECT FROM public.job_failures f WHERE f.job_id = $3 AND f.credential_id = c.id);

-- name: hold_floor
-- FOR UPDATE: waits for every write that is about to commit, and no other begins to until this transaction ends.
SELECT min_version FROM public.key_floors WHERE transit_key = $1 FOR UPDATE;

-- name: count_below
SELECT count(*) FROM public.credentials
WHERE transit_key = $1 AND (transit_key_version < $2 OR previous_transit_key_version < $2);

-- name: note_still_needed
-- How many are in a retirement's way, and the first hundred of them.
WITH counted AS (UPDATE public.jobs SET failed = $4 WHERE id = $1)
INSERT INTO public.job_failures (job_id, credential_id, reason)
SELECT $1, id, CASE WHEN transit_key_version < $3 THEN 'still_needed' ELSE 'previous_still_needed' END
FROM public.credentials
WHERE transit_key = $2 AND (transit_key_version < $3 OR previous_transit_key_version < $3)
ORDER BY id LIMIT 100
ON CONFLICT DO NOTHING;

-- name: raise_floor
UPDATE public.key_floors SET min_version = greatest(min_version, $2) WHERE transit_key = $1;
