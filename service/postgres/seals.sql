-- The statements about the seals over the events. See `queries.sql`.

-- name: event_tables
-- What verification reads, partitions and whatever else inherits included, and whether it is as a migration makes it: a
-- view, a policy or a rule shows each statement what its author likes.
WITH RECURSIVE tables (oid, kind) AS (
    SELECT c.oid, CASE c.relname WHEN 'credential_events' THEN 'p' ELSE 'r' END
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public' AND c.relname IN ('credential_events', 'event_seals', 'installation')
    UNION
    -- a partition of the events is a plain table; nothing inherits from another
    SELECT i.inhrelid, CASE t.kind WHEN 'p' THEN 'r' ELSE 'none' END
    FROM tables t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid
)
SELECT c.relname AS name, c.relkind::text = t.kind AND n.nspname = 'public' AS is_plain,
       c.relrowsecurity OR c.relforcerowsecurity AS has_policies,
       EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid) AS has_rules
FROM tables t JOIN pg_catalog.pg_class c ON c.oid = t.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY c.relname;

-- name: events_of_seals
-- Every column of the table. record_send: Postgres' binary form of a row (event_chain.py); in another order, or with
-- another column, it would be another form of seals.
SELECT xid, id,
       record_send(ROW(id, at, credential_id, user_id, account_id, acting_user, actor, action, outcome, reason,
                       transit_key, transit_key_version, batch_id, request_id, xid)) AS encoded
FROM public.credential_events
WHERE xid >= $1 AND xid < $2 AND id > $3 AND ($4::bigint IS NULL OR id <= $4)
ORDER BY xid, id;

-- name: horizon
SELECT clock_timestamp() AS at, pg_snapshot_xmin(now_running) AS oldest_xid, pg_snapshot_xmax(now_running) AS next_xid,
       (SELECT system_identifier FROM pg_control_system()) AS cluster_id,
       (SELECT id FROM public.installation) AS installation_id
FROM pg_current_snapshot() AS now_running;

-- name: newest_seal
SELECT number, timestamptz_send(sealed_at) AS sealed_at, cluster_id, after_id, upto_id, from_xid, upto_xid, events,
       events_sha256, seal_sha256, key_version, signature
FROM public.event_seals ORDER BY number DESC LIMIT 1;

-- name: seals
SELECT number, timestamptz_send(sealed_at) AS sealed_at, cluster_id, after_id, upto_id, from_xid, upto_xid, events,
       events_sha256, seal_sha256, key_version, signature
FROM public.event_seals WHERE number > $1 AND number <= $2 ORDER BY number LIMIT $3;

-- name: seal_mark
SELECT number, seal_sha256 FROM public.event_seals WHERE number = $1;

-- name: newest_seal_mark
SELECT number, seal_sha256 FROM public.event_seals ORDER BY number DESC LIMIT 1;

-- name: add_seal
INSERT INTO public.event_seals (number, sealed_at, cluster_id, after_id, upto_id, from_xid, upto_xid, events,
                                events_sha256, seal_sha256, key_version, signature)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- name: greatest_event_id
SELECT max(id) AS id FROM public.credential_events
WHERE xid >= $1 AND id > $2 AND ($3::bigint IS NULL OR id < $3);

-- name: least_event_id
SELECT min(id) AS id FROM public.credential_events WHERE xid < $1 AND id > $2;

-- name: seal_segments
SELECT DISTINCT after_id FROM public.event_seals ORDER BY after_id LIMIT $1;

-- name: events_outside
-- No seal covers these, and none ever will: they were put in by hand.
SELECT count(*) AS events FROM public.credential_events e
WHERE NOT EXISTS (
    SELECT FROM unnest($1::bigint[], $2::bigint[], $3::xid8[]) AS s (after_id, until_id, upto_xid)
    WHERE e.id > s.after_id AND e.id <= s.until_id AND e.xid < s.upto_xid
);

-- name: unsealed_events
SELECT count(*) AS events, min(at) AS since,
       count(*) FILTER (WHERE xid >= pg_snapshot_xmin(now_running) AND xid < pg_snapshot_xmax(now_running)) AS held,
       min(at) FILTER (WHERE xid >= pg_snapshot_xmin(now_running) AND xid < pg_snapshot_xmax(now_running)) AS held_since,
       count(*) FILTER (WHERE xid >= pg_snapshot_xmax(now_running)) AS foreign
FROM public.credential_events, pg_current_snapshot() AS now_running
WHERE id > $1 AND (xid >= $2 OR id > $3);
