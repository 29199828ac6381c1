-- What the benchmarks ask of Postgres beside the service, as the owner of the tables. `-- name:` starts a statement.

-- name: fill_credentials
-- $1 rows of the service's own, four to a user, each with a binding, an account and an id of its own.
INSERT INTO public.credentials (id, user_id, account_id, credential_type, transit_mount, transit_key, transit_key_version,
                                binding, kv_mount, kv_path, kv_version, secret_version)
SELECT made.id, 'user-' || made.n / 4, made.account_id, 'alpaca', $2, $3, 1,
       uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), $4, made.account_id || '/' || made.id, 1, 1
FROM (SELECT n, gen_random_uuid() AS id, gen_random_uuid() AS account_id
      FROM generate_series(1, $1::integer) AS n) AS made;

-- name: fill_events
-- What storing them would have left: one event for each.
INSERT INTO public.credential_events (credential_id, user_id, account_id, acting_user, actor, action, outcome,
                                      transit_key_version)
SELECT id, user_id, account_id, user_id, 'user:' || user_id, 'store', 'done', 1 FROM public.credentials;

-- name: settle
-- So that neither autovacuum nor the first reads' hint bits fall into a round.
VACUUM (ANALYZE);

-- name: checkpoint
CHECKPOINT;

-- name: sample
SELECT id, user_id, account_id, binding FROM public.credentials ORDER BY random() LIMIT $1;

-- name: make_database_1k
CREATE DATABASE credentials_1k;

-- name: make_database_1m
CREATE DATABASE credentials_1m;

-- name: server
SELECT current_setting('server_version') AS version, current_setting('fsync') AS fsync,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('shared_buffers') AS shared_buffers;

-- name: ask_for_job
INSERT INTO public.jobs (kind, transit_key, requested_by) VALUES ($1, $2, 'benchmarks') RETURNING id;

-- name: job_progress
SELECT state, done FROM public.jobs WHERE id = $1;

-- name: stop_job
UPDATE public.jobs SET stop_requested_by = 'benchmarks' WHERE id = $1;

-- name: suspend
INSERT INTO public.suspensions (user_id, suspended_by) VALUES ($1, 'benchmark');

-- name: resume
DELETE FROM public.suspensions WHERE user_id = $1;
