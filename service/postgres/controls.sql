-- The statements of the controls: suspensions, suspects, and what is cut off while it is under way.

-- name: suspend
-- No row: it is suspended already, by whoever was first, and nothing is changed or recorded. One of a suspension's user
-- and account is null, and equal to nothing; here, and in the statements below.
-- set_config: whatever the server does by default, a suspension that was answered survives its crash.
WITH made AS (
    INSERT INTO public.suspensions (user_id, account_id, reason, suspended_by)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT DO NOTHING
    RETURNING id, user_id, account_id, reason, suspended_by, suspended_at
), recorded AS (
    INSERT INTO public.credential_events (user_id, account_id, actor, action, outcome, reason, request_id)
    SELECT user_id, account_id, suspended_by, $5, 'done', reason, $6 FROM made
)
SELECT * FROM made
WHERE (SELECT set_config('synchronous_commit', 'on', true)) IS NOT NULL;

-- name: resume
WITH lifted AS (
    DELETE FROM public.suspensions WHERE user_id = $1 OR account_id = $2
    RETURNING id, user_id, account_id
), recorded AS (
    INSERT INTO public.credential_events (user_id, account_id, actor, action, outcome, request_id)
    SELECT user_id, account_id, $3, $4, 'done', $5 FROM lifted
)
SELECT id FROM lifted;

-- name: find_suspension
SELECT id, user_id, account_id, reason, suspended_by, suspended_at
FROM public.suspensions WHERE user_id = $1 OR account_id = $2;

-- name: page_suspensions
SELECT id, user_id, account_id, reason, suspended_by, suspended_at
FROM public.suspensions
WHERE $1::timestamptz IS NULL OR (suspended_at, id) < ($1, $2::uuid)
ORDER BY suspended_at DESC, id DESC
LIMIT $3;

-- name: count_suspended
-- How many credentials each of these users and accounts has (in a row one of the two is null, and equal to nothing).
-- Counting ends at 1001: how many there are is for whoever stores them to say. It is no part of `suspend`, which must
-- wait for nothing that somebody else does to the credentials.
SELECT (SELECT count(*) FROM (SELECT FROM public.credentials c WHERE c.user_id = a.user_id LIMIT 1001) AS of_user)
     + (SELECT count(*) FROM (SELECT FROM public.credentials c WHERE c.account_id = a.account_id LIMIT 1001) AS of_account)
       AS credentials
FROM unnest($1::text[], $2::uuid[]) WITH ORDINALITY AS a (user_id, account_id, n)
ORDER BY a.n;

-- name: cut_off
-- The same questions as in `authorise_opens`, of what was granted before; nothing is recorded.
WITH given AS MATERIALIZED (
    SELECT $1::text[] AS users, $2::uuid[] AS credential_ids
)
SELECT CASE WHEN c.id IS NULL OR c.user_id <> a.user_id THEN 'not_found'
            WHEN EXISTS (SELECT FROM public.suspensions s WHERE s.user_id = c.user_id)
              OR EXISTS (SELECT FROM public.suspensions s WHERE s.account_id = c.account_id) THEN 'suspended'
            WHEN NOT c.is_active THEN 'inactive'
       END AS denial
FROM given, unnest(users, credential_ids) WITH ORDINALITY AS a (user_id, credential_id, n)
LEFT JOIN public.credentials c ON c.id = a.credential_id
ORDER BY a.n;

-- name: note_refused
-- Of keys that have been replaced since, or of a suspect, it is no news. That it turned suspect is kept apart, so that
-- it counts whatever becomes of the credential.
WITH turned AS (
    UPDATE public.credentials SET suspect_since = clock_timestamp()
    WHERE id = $1 AND secret_version = $2 AND suspect_since IS NULL
    RETURNING *
), counted AS (
    INSERT INTO public.suspect_turns (credential_type, credential_id, user_id, at)
    SELECT credential_type, id, user_id, suspect_since FROM turned
)
INSERT INTO public.credential_events (credential_id, user_id, account_id, acting_user, actor, action, outcome, reason,
                                      transit_key, transit_key_version, request_id)
SELECT id, user_id, account_id, $3, $4, $5, 'done', 'refused', transit_key, transit_key_version, $6 FROM turned;

-- name: note_accepted
WITH cleared AS (
    UPDATE public.credentials SET suspect_since = NULL
    WHERE id = $1 AND secret_version = $2 AND suspect_since IS NOT NULL
    RETURNING *
)
INSERT INTO public.credential_events (credential_id, user_id, account_id, acting_user, actor, action, outcome, reason,
                                      transit_key, transit_key_version, request_id)
SELECT id, user_id, account_id, $3, $4, $5, 'done', 'accepted', transit_key, transit_key_version, $6 FROM cleared;

-- name: disable_suspects
-- $1: seconds; $2: how many turning suspect within that time of each other are the provider's fault. What turned
-- suspect so long ago that others' turns may have been forgotten is left alone. The update looks at the row again: where
-- two do this at once, one of them does it.
WITH forgotten AS (
    DELETE FROM public.suspect_turns WHERE at < now() - interval '7 days' - 2 * make_interval(secs => $1)
), due AS (
    SELECT c.id, c.suspect_since FROM public.credentials c
    WHERE c.suspect_since <= now() - make_interval(secs => $1)
      AND c.suspect_since > now() - interval '7 days' - make_interval(secs => $1)
      AND c.is_active
      AND (SELECT greatest(count(DISTINCT t.user_id),
                            count(DISTINCT t.credential_id) FILTER (WHERE t.user_id = c.user_id))
           FROM public.suspect_turns t
           WHERE t.credential_type = c.credential_type
             AND t.at BETWEEN c.suspect_since - make_interval(secs => $1)
                          AND c.suspect_since + make_interval(secs => $1)) < $2
), disabled AS (
    UPDATE public.credentials c
    SET is_active = false, row_version = c.row_version + 1, updated_at = clock_timestamp()
    FROM due
    WHERE c.id = due.id AND c.is_active AND c.suspect_since = due.suspect_since
    RETURNING c.*
), recorded AS (
    INSERT INTO public.credential_events (credential_id, user_id, account_id, acting_user, actor, action, outcome,
                                          reason, transit_key, transit_key_version)
    SELECT id, user_id, account_id, user_id, 'service', $3, 'done', 'suspect', transit_key, transit_key_version
    FROM disabled
)
SELECT id FROM disabled;
