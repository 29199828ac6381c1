-- The statements about credentials, their events and migration; about keys and jobs they are in `rotation.sql`, about
-- seals in `seals.sql`. `-- name:` starts one; parameters are asyncpg's $1, $2, …
-- `queries.py` loads these files; no SQL is built from strings anywhere. Every table is named with its schema: on a caller's
-- connection a temporary table, or another schema in its search path, would stand in for ours.

-- name: authorise_opens
-- Decides and records a batch of opens in one statement: whoever is told "granted" has an event, committed with the
-- statement. Another user's credential and an absent one differ in the event's reason alone.
-- MATERIALIZED, so that the arrays' lengths are unknown to the planner: it would plan anew for each batch, which takes
-- as long as the rest, and for large ones read the whole table.
WITH given AS MATERIALIZED (
    SELECT $1::uuid[] AS credential_ids, $2::text[] AS acting_users, $3::text[] AS expected_types,
           $4::boolean[] AS allow_inactives, $5::text[] AS actors, $6::text[] AS request_ids, $7::text[] AS actions,
           $9::text[] AS account_types
), asked AS (
    SELECT a.*
    FROM given, unnest(credential_ids, acting_users, expected_types, allow_inactives, actors, request_ids, actions,
                       account_types)
        WITH ORDINALITY
        AS a (credential_id, acting_user, expected_type, allow_inactive, actor, request_id, action, account_type, n)
), decided AS (
    SELECT a.n, a.credential_id AS asked_id, a.acting_user, a.actor, a.request_id, a.action, c.*,
           CASE WHEN c.id IS NULL THEN 'not_found'
                WHEN c.user_id <> a.acting_user THEN 'not_owner'
                WHEN EXISTS (SELECT FROM public.suspensions s WHERE s.user_id = c.user_id)
                  OR EXISTS (SELECT FROM public.suspensions s WHERE s.account_id = c.account_id) THEN 'suspended'
                WHEN a.expected_type IS NOT NULL AND c.credential_type <> a.expected_type THEN 'wrong_type'
                WHEN NOT c.is_active AND NOT a.allow_inactive THEN 'inactive'
                -- An account whose type is not known counts as live.
                WHEN c.credential_type = ANY ($10::text[]) AND coalesce(c.account_type, 'live') <> a.account_type
                     THEN 'account_type'
           END AS denial
    FROM asked a LEFT JOIN public.credentials c ON c.id = a.credential_id
), recorded AS (
    INSERT INTO public.credential_events (credential_id, user_id, account_id, acting_user, actor, action, outcome, reason,
                                   transit_key, transit_key_version, batch_id, request_id)
    SELECT asked_id, user_id, account_id, acting_user, actor, action,
           CASE WHEN denial IS NULL THEN 'granted' ELSE 'denied' END, denial,
           CASE WHEN denial IS NULL THEN transit_key END,
           CASE WHEN denial IS NULL THEN transit_key_version END, $8::uuid, request_id
    FROM decided ORDER BY n
)
-- set_config: a caller's connection may have synchronous_commit off, and the record has to be durable.
SELECT denial, id, user_id, account_id, credential_type, account_type, is_active, transit_mount, transit_key,
       transit_key_version, binding, kv_mount, kv_path, kv_version, secret_version, previous_kv_version,
       previous_secret_version, previous_transit_key_version, previous_expires_at, row_version, validation_state,
       last_validated_at, last_used_at, suspect_since, created_at, updated_at
FROM decided
WHERE (SELECT set_config('synchronous_commit', 'on', true)) IS NOT NULL
ORDER BY n;

-- name: record_denied
-- Something was refused before there was a grant. Whose credential it is, if there is one, only the event tells.
INSERT INTO public.credential_events (credential_id, user_id, account_id, acting_user, actor, action, outcome, reason,
                                      request_id)
SELECT $1::uuid, c.user_id, c.account_id, $2, $3, $4, 'denied',
       CASE WHEN $1::uuid IS NULL THEN 'not_a_uuid' WHEN c.id IS NULL THEN 'not_found' ELSE 'not_owner' END, $5
FROM (VALUES (1)) AS always (x) LEFT JOIN public.credentials c ON c.id = $1::uuid;

-- name: record_event
INSERT INTO public.credential_events (credential_id, user_id, account_id, acting_user, actor, action, outcome, reason,
                               transit_key, transit_key_version, batch_id, request_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- name: become_auditor
-- Events are readable by the auditor's role alone; the runtime takes it on for the transaction that reads them.
SET LOCAL ROLE credentials_auditor;

-- name: page_events
-- $1 not null: only what was done as this user with this user's credentials. Rest: filters; ($9, $10) is the cursor.
SELECT id, at, credential_id, user_id, account_id, acting_user, actor, action, outcome, reason, transit_key,
       transit_key_version, batch_id, request_id
FROM public.credential_events
WHERE ($1::text IS NULL OR (user_id = $1 AND acting_user = $1))
  AND ($2::uuid IS NULL OR credential_id = $2)
  AND ($3::text IS NULL OR user_id = $3)
  AND ($4::text IS NULL OR actor = $4)
  AND ($5::text IS NULL OR action = $5)
  AND ($6::text IS NULL OR outcome = $6)
  AND ($7::timestamptz IS NULL OR at >= $7)
  AND ($8::timestamptz IS NULL OR at < $8)
  AND ($9::timestamptz IS NULL OR (at, id) < ($9, $10::bigint))
ORDER BY at DESC, id DESC
LIMIT $11;

-- name: find_handoff
-- What was handed off under this id a short while ago, by this actor for this user; and whether $5 has been reported.
-- (Hand-offs last five minutes at most. The bound on `at` keeps this to the newest end of the credential's index.)
SELECT granted.user_id, granted.account_id, granted.transit_key, granted.transit_key_version,
       EXISTS (SELECT FROM public.credential_events failed
               WHERE failed.credential_id = $1 AND failed.at >= granted.at AND failed.batch_id = $2
                 AND failed.action = 'handoff' AND failed.outcome = 'failed' AND failed.reason = $5) AS reported
FROM public.credential_events granted
WHERE granted.credential_id = $1 AND granted.at > clock_timestamp() - interval '15 minutes' AND granted.batch_id = $2
  AND granted.action = 'handoff' AND granted.outcome = 'granted' AND granted.acting_user = $3 AND granted.actor = $4;

-- name: get_credential
-- $2 null: any user's (auditors).
SELECT * FROM public.credentials WHERE id = $1 AND ($2::text IS NULL OR user_id = $2);

-- name: get_credentials
-- Many reads at once: a row for each that finds one. A null owner: any user's (auditors).
SELECT asked.n, c.*
FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS asked (credential_id, owner, n)
JOIN public.credentials c ON c.id = asked.credential_id AND (asked.owner IS NULL OR c.user_id = asked.owner);

-- name: page_credentials
SELECT * FROM public.credentials
WHERE ($1::text IS NULL OR user_id = $1)
  AND ($2::uuid IS NULL OR account_id = $2)
  AND ($3::text IS NULL OR credential_type = $3)
  AND ($4::boolean IS NULL OR is_active = $4)
  AND ($5::timestamptz IS NULL OR updated_at < $5)
  AND ($6::boolean IS NULL OR (validation_state <> 'unvalidated') = $6)
  AND ($7::boolean IS NULL OR (last_used_at IS NOT NULL) = $7)
  AND ($8::boolean IS NULL OR (suspect_since IS NOT NULL) = $8)
  AND ($9::timestamptz IS NULL OR (created_at, id) < ($9, $10::uuid))
ORDER BY created_at DESC, id DESC
LIMIT $11;

-- name: insert_intent
-- $5: seconds from now until reconciliation may take it.
INSERT INTO public.write_intents (id, credential_id, kv_path, kv_version, due_at)
VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5));

-- name: wait_for_intents
-- $1: paths, $2: the intents that were begun for them. FOR SHARE waits for whoever holds another one of the same path; from
-- then on whoever holds one sees those of $2, so that none takes the path for its own.
SELECT id FROM public.write_intents WHERE kv_path = ANY($1::text[]) AND id <> ALL($2::uuid[]) ORDER BY id FOR SHARE;

-- name: being_deleted
SELECT DISTINCT credential_id FROM public.write_intents
WHERE credential_id = ANY($1::uuid[]) AND kv_version IS NULL;

-- name: deleted_ids
-- After `become_auditor`. Those that a credential had which was deleted.
SELECT DISTINCT credential_id FROM public.credential_events
WHERE credential_id = ANY($1::uuid[]) AND action = 'delete' AND outcome = 'done';

-- name: delete_intent
-- Ends a write. No row: reconciliation has taken it, and the writer has to abort.
DELETE FROM public.write_intents WHERE id = $1 RETURNING id;

-- name: share_floor
-- FOR SHARE: holds retiring off until this write has ended.
SELECT min_version FROM public.key_floors WHERE transit_key = $1 FOR SHARE;

-- name: ensure_floor
-- Owner only, at migration.
INSERT INTO public.key_floors (transit_key) VALUES ($1) ON CONFLICT DO NOTHING;

-- name: insert_credential
-- $17: when it was made, where it is imported; never later than now, whatever the clocks say.
INSERT INTO public.credentials (id, user_id, account_id, credential_type, transit_mount, transit_key, transit_key_version,
                         binding, kv_mount, kv_path, kv_version, secret_version, validation_state, account_type,
                         last_validated_at, is_active, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, least($17, clock_timestamp()),
        clock_timestamp())
RETURNING *;

-- name: forget_expired_idempotency_key
DELETE FROM public.idempotency_keys
WHERE actor = $1 AND user_id = $2 AND route = $3 AND key = $4 AND expires_at <= now();

-- name: insert_idempotency_key
INSERT INTO public.idempotency_keys (actor, user_id, route, key, body_mac, mac_key_version, credential_id, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(hours => $8));

-- name: find_idempotency_key
SELECT body_mac, mac_key_version, credential_id FROM public.idempotency_keys
WHERE actor = $1 AND user_id = $2 AND route = $3 AND key = $4 AND expires_at > now();

-- name: replace_secret
-- Guarded by the row version, which a rewrap leaves alone: the pin may have moved, the secret is the same. The secret
-- before becomes the previous one, and what was kept before that is left to reconciliation, due at once; validation and
-- account type are what is known of the new keys ($8, $9, $10), nothing as a rule, and nobody has refused them yet.
WITH before AS (
    SELECT id, kv_path, previous_kv_version FROM public.credentials
    WHERE id = $1 AND row_version = $2
    FOR UPDATE
), discarded AS (
    INSERT INTO public.write_intents (id, credential_id, kv_path, kv_version, due_at)
    SELECT gen_random_uuid(), id, kv_path, previous_kv_version, now() FROM before
    WHERE previous_kv_version IS NOT NULL
)
UPDATE public.credentials c
SET transit_key_version = $3, kv_version = $4, secret_version = $5, is_active = $6,
    previous_kv_version = c.kv_version, previous_secret_version = c.secret_version,
    previous_transit_key_version = c.transit_key_version,
    previous_expires_at = now() + make_interval(hours => $7),
    row_version = c.row_version + 1, validation_state = $8, account_type = $9, last_validated_at = $10,
    suspect_since = NULL, broken_since = NULL, updated_at = clock_timestamp(), pinned_at = clock_timestamp()
FROM before WHERE c.id = before.id
RETURNING c.*;

-- name: set_active
UPDATE public.credentials SET is_active = $3, row_version = row_version + 1, updated_at = clock_timestamp()
WHERE id = $1 AND row_version = $2
RETURNING *;

-- name: delete_credential
DELETE FROM public.credentials WHERE id = $1 AND row_version = $2 RETURNING id;

-- name: record_validation
-- A verdict on keys that have been replaced since is dropped.
UPDATE public.credentials SET validation_state = $3, account_type = $4, last_validated_at = now()
WHERE id = $1 AND secret_version = $2;

-- name: touch_used
UPDATE public.credentials SET last_used_at = date_trunc('minute', now())
WHERE id = ANY($1::uuid[]) AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute');

-- name: due_intents
SELECT id, credential_id, kv_path, kv_version FROM public.write_intents WHERE due_at <= now() ORDER BY due_at LIMIT $1;

-- name: hold_intent
-- SKIP LOCKED: an intent whose writer is about to commit its deletion is not ours.
SELECT id FROM public.write_intents WHERE id = $1 FOR UPDATE SKIP LOCKED;

-- name: hold_own_intent
SELECT id FROM public.write_intents WHERE id = $1 FOR UPDATE;

-- name: company_of_intent
-- `alone`: no other intent accounts for something of the same path; `shared`: another one is for the same version. A
-- statement of its own, after the lock: an intent that was begun before it is seen.
SELECT NOT EXISTS (SELECT FROM public.write_intents o WHERE o.kv_path = i.kv_path AND o.id <> i.id) AS alone,
       EXISTS (SELECT FROM public.write_intents o
               WHERE o.kv_path = i.kv_path AND o.kv_version = i.kv_version AND o.id <> i.id) AS shared
FROM public.write_intents i WHERE i.id = $1;

-- name: defer_intent
-- One that can't be reconciled now is tried again later, and doesn't stand in the others' way.
UPDATE public.write_intents SET due_at = now() + interval '10 minutes' WHERE id = $1;

-- name: hold_credential
-- FOR SHARE: what the row pins stays pinned until the KV version has been dealt with.
SELECT * FROM public.credentials WHERE id = $1 FOR SHARE;

-- name: expire_previous
-- $2: the hours that an update sets. An expiry further away than that is not an update's, and is not waited for.
WITH due AS (
    SELECT id, kv_path, previous_kv_version FROM public.credentials
    WHERE previous_expires_at <= now() OR previous_expires_at > now() + make_interval(hours => $2)
    ORDER BY previous_expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
), discarded AS (
    INSERT INTO public.write_intents (id, credential_id, kv_path, kv_version, due_at)
    SELECT gen_random_uuid(), id, kv_path, previous_kv_version, now() FROM due
)
UPDATE public.credentials c
SET previous_kv_version = NULL, previous_secret_version = NULL, previous_transit_key_version = NULL,
    previous_expires_at = NULL
FROM due WHERE c.id = due.id
RETURNING c.id;

-- name: purge_idempotency
DELETE FROM public.idempotency_keys WHERE expires_at <= now() RETURNING key;

-- name: page_all_credentials
SELECT * FROM public.credentials WHERE ($1::uuid IS NULL OR id > $1) ORDER BY id LIMIT $2;

-- name: find_credentials
SELECT * FROM public.credentials WHERE id = ANY($1::uuid[]);

-- name: intent_versions
SELECT kv_version FROM public.write_intents WHERE kv_path = $1;

-- name: mark_broken
UPDATE public.credentials SET broken_since = CASE WHEN $2 THEN now() END
WHERE id = ANY($1::uuid[]) AND (broken_since IS NULL) = $2;

-- name: installation_id
SELECT id FROM public.installation;

-- name: migration_version
SELECT coalesce(max(version), 0) FROM public.schema_migrations;

-- name: hold_migration_lock
-- Owner only. One migration at a time; the number is this project's own and means nothing else.
SELECT pg_advisory_lock(7205759403792793);

-- name: wait_briefly_for_tables
-- Whoever waits for a table's lock has everybody behind it wait, who only reads, too: no longer than a moment.
SET lock_timeout = '3s';

-- name: applied_migrations
SELECT version, name, sha256 FROM public.schema_migrations ORDER BY version;

-- name: note_migration
INSERT INTO public.schema_migrations (version, name, sha256) VALUES ($1, $2, $3);

-- name: ensure_event_partitions
-- Owner only.
SELECT public.ensure_event_partitions($1);

-- name: write_create_login
-- Owner only: writes the statement that makes a login role a member of one of ours, since DDL takes no parameters.
SELECT format('%s ROLE %I LOGIN INHERIT PASSWORD %L',
              CASE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = $1) THEN 'ALTER' ELSE 'CREATE' END,
              $1::text, $2::text);

-- name: write_grant_membership
SELECT format('GRANT %I TO %I', $1::text, $2::text);
