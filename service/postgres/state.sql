-- What the metrics tell of the tables.

-- name: state_counts
-- Few rows each, or by an index that has no others; nothing that names anybody.
SELECT (SELECT count(*) FROM public.suspensions WHERE user_id IS NOT NULL) AS suspended_users,
       (SELECT count(*) FROM public.suspensions WHERE account_id IS NOT NULL) AS suspended_accounts,
       (SELECT count(*) FROM public.credentials WHERE suspect_since IS NOT NULL) AS suspects,
       (SELECT count(*) FROM public.write_intents) AS intents,
       (SELECT count(*) FROM public.write_intents WHERE due_at <= now()) AS intents_due,
       (SELECT extract(epoch FROM sealed_at)::float8 FROM public.event_seals ORDER BY number DESC LIMIT 1) AS sealed_at;
