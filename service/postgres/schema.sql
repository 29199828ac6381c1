-- All migrations applied, as pg_dump tells it, to read and to compare. Nothing runs this file.
-- Without the monthly partitions of credential_events, and without memberships among roles, which are not the
-- database's but the cluster's: `GRANT credentials_auditor TO credentials_runtime`.
-- Written by: WRITE_SCHEMA=1 pytest tests/integration/test_migrations.py

CREATE FUNCTION public.ensure_event_partitions(months integer) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    first date;
BEGIN
    FOR i IN 0 .. months - 1 LOOP
        first := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i))::date;
        BEGIN
            EXECUTE format(
                'CREATE TABLE IF NOT EXISTS %I PARTITION OF credential_events FOR VALUES FROM (%L) TO (%L)',
                'credential_events_' || to_char(first, 'YYYY_MM'),
                first::timestamp AT TIME ZONE 'UTC', (first + interval '1 month') AT TIME ZONE 'UTC');
        EXCEPTION WHEN check_violation THEN
            RAISE NOTICE 'events of % stay in the default partition', first;
        END;
    END LOOP;
END
$$;

CREATE TABLE public.credential_events (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    credential_id uuid,
    user_id text,
    account_id uuid,
    acting_user text,
    actor text NOT NULL,
    action text NOT NULL,
    outcome text NOT NULL,
    reason text,
    transit_key_version integer,
    batch_id uuid,
    request_id text,
    transit_key text,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    CONSTRAINT credential_events_outcome_check CHECK ((outcome = ANY (ARRAY['granted'::text, 'denied'::text, 'done'::text, 'failed'::text])))
)
PARTITION BY RANGE (at);

CREATE TABLE public.credential_events_default (
    id bigint CONSTRAINT credential_events_id_not_null NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() CONSTRAINT credential_events_at_not_null NOT NULL,
    credential_id uuid,
    user_id text,
    account_id uuid,
    acting_user text,
    actor text CONSTRAINT credential_events_actor_not_null NOT NULL,
    action text CONSTRAINT credential_events_action_not_null NOT NULL,
    outcome text CONSTRAINT credential_events_outcome_not_null NOT NULL,
    reason text,
    transit_key_version integer,
    batch_id uuid,
    request_id text,
    transit_key text,
    xid xid8 DEFAULT pg_current_xact_id() CONSTRAINT credential_events_xid_not_null NOT NULL,
    CONSTRAINT credential_events_outcome_check CHECK ((outcome = ANY (ARRAY['granted'::text, 'denied'::text, 'done'::text, 'failed'::text])))
);

ALTER TABLE public.credential_events ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.credential_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.credentials (
    id uuid NOT NULL,
    user_id text NOT NULL,
    account_id uuid NOT NULL,
    credential_type text NOT NULL,
    account_type text,
    is_active boolean DEFAULT true NOT NULL,
    transit_mount text NOT NULL,
    transit_key text NOT NULL,
    transit_key_version integer NOT NULL,
    binding bytea NOT NULL,
    kv_mount text NOT NULL,
    kv_path text NOT NULL,
    kv_version integer NOT NULL,
    secret_version bigint NOT NULL,
    previous_kv_version integer,
    previous_secret_version bigint,
    previous_transit_key_version integer,
    previous_expires_at timestamp with time zone,
    row_version bigint DEFAULT 1 NOT NULL,
    validation_state text DEFAULT 'unvalidated'::text NOT NULL,
    last_validated_at timestamp with time zone,
    last_used_at timestamp with time zone,
    broken_since timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    pinned_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    suspect_since timestamp with time zone,
    CONSTRAINT credentials_account_type_check CHECK ((account_type = ANY (ARRAY['paper'::text, 'live'::text]))),
    CONSTRAINT credentials_binding_check CHECK ((octet_length(binding) = 32)),
    CONSTRAINT credentials_check CHECK ((num_nulls(previous_kv_version, previous_secret_version, previous_transit_key_version, previous_expires_at) = ANY (ARRAY[0, 4]))),
    CONSTRAINT credentials_kv_version_check CHECK ((kv_version > 0)),
    CONSTRAINT credentials_secret_version_check CHECK ((secret_version > 0)),
    CONSTRAINT credentials_transit_key_version_check CHECK ((transit_key_version > 0)),
    CONSTRAINT credentials_user_id_check CHECK (((user_id <> ''::text) AND (octet_length(user_id) <= 1024))),
    CONSTRAINT credentials_validation_state_check CHECK ((validation_state = ANY (ARRAY['unvalidated'::text, 'valid'::text, 'invalid'::text])))
);

CREATE TABLE public.event_seals (
    number bigint NOT NULL,
    sealed_at timestamp with time zone NOT NULL,
    cluster_id bigint NOT NULL,
    after_id bigint NOT NULL,
    upto_id bigint NOT NULL,
    from_xid xid8 NOT NULL,
    upto_xid xid8 NOT NULL,
    events bigint NOT NULL,
    events_sha256 bytea NOT NULL,
    seal_sha256 bytea NOT NULL,
    key_version integer NOT NULL,
    signature bytea NOT NULL,
    CONSTRAINT event_seals_events_sha256_check CHECK ((octet_length(events_sha256) = 32)),
    CONSTRAINT event_seals_number_check CHECK ((number > 0)),
    CONSTRAINT event_seals_seal_sha256_check CHECK ((octet_length(seal_sha256) = 32))
);

CREATE TABLE public.idempotency_keys (
    actor text NOT NULL,
    user_id text NOT NULL,
    route text NOT NULL,
    key text NOT NULL,
    body_mac bytea NOT NULL,
    mac_key_version integer NOT NULL,
    credential_id uuid NOT NULL,
    expires_at timestamp with time zone NOT NULL
);

CREATE TABLE public.installation (
    singleton boolean DEFAULT true NOT NULL,
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT installation_singleton_check CHECK (singleton)
);

CREATE TABLE public.job_failures (
    job_id uuid NOT NULL,
    credential_id uuid NOT NULL,
    reason text NOT NULL
);

CREATE TABLE public.jobs (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    kind text NOT NULL,
    transit_key text NOT NULL,
    below_version integer,
    state text DEFAULT 'waiting'::text NOT NULL,
    requested_by text NOT NULL,
    request_id text,
    requested_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    started_at timestamp with time zone,
    heartbeat_at timestamp with time zone,
    ended_at timestamp with time zone,
    stop_requested_by text,
    from_version integer,
    to_version integer,
    total bigint,
    done bigint DEFAULT 0 NOT NULL,
    failed bigint DEFAULT 0 NOT NULL,
    reason text,
    CONSTRAINT jobs_below_version_check CHECK ((below_version > 0)),
    CONSTRAINT jobs_check CHECK (((kind = 'retire'::text) = (below_version IS NOT NULL))),
    CONSTRAINT jobs_check1 CHECK (((state = ANY (ARRAY['done'::text, 'failed'::text])) = (ended_at IS NOT NULL))),
    CONSTRAINT jobs_kind_check CHECK ((kind = ANY (ARRAY['rotate'::text, 'rewrap'::text, 'retire'::text]))),
    CONSTRAINT jobs_state_check CHECK ((state = ANY (ARRAY['waiting'::text, 'running'::text, 'done'::text, 'failed'::text])))
);

CREATE TABLE public.key_floors (
    transit_key text NOT NULL,
    min_version integer DEFAULT 1 NOT NULL,
    share_lock boolean DEFAULT true NOT NULL,
    CONSTRAINT key_floors_min_version_check CHECK ((min_version > 0))
);

CREATE TABLE public.key_versions (
    transit_key text NOT NULL,
    version integer NOT NULL,
    created_at timestamp with time zone NOT NULL
);

CREATE TABLE public.schema_migrations (
    version integer NOT NULL,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.suspect_turns (
    credential_type text NOT NULL,
    credential_id uuid NOT NULL,
    user_id text NOT NULL,
    at timestamp with time zone NOT NULL
);

CREATE TABLE public.suspensions (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    user_id text,
    account_id uuid,
    reason text,
    suspended_by text NOT NULL,
    suspended_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT suspensions_check CHECK ((num_nonnulls(user_id, account_id) = 1)),
    CONSTRAINT suspensions_reason_check CHECK ((octet_length(reason) <= 1024)),
    CONSTRAINT suspensions_user_id_check CHECK (((user_id <> ''::text) AND (octet_length(user_id) <= 1024)))
);

CREATE TABLE public.write_intents (
    id uuid NOT NULL,
    credential_id uuid NOT NULL,
    kv_path text NOT NULL,
    kv_version integer,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    due_at timestamp with time zone NOT NULL,
    CONSTRAINT write_intents_kv_path_check CHECK ((kv_path ~ '^[0-9a-f-]{36}/[0-9a-f-]{36}$'::text))
);

ALTER TABLE ONLY public.credential_events ATTACH PARTITION public.credential_events_default DEFAULT;

ALTER TABLE ONLY public.credential_events
    ADD CONSTRAINT credential_events_pkey PRIMARY KEY (at, id);

ALTER TABLE ONLY public.credential_events_default
    ADD CONSTRAINT credential_events_default_pkey PRIMARY KEY (at, id);

ALTER TABLE ONLY public.credentials
    ADD CONSTRAINT credentials_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.event_seals
    ADD CONSTRAINT event_seals_pkey PRIMARY KEY (number);

ALTER TABLE ONLY public.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (actor, user_id, route, key);

ALTER TABLE ONLY public.installation
    ADD CONSTRAINT installation_pkey PRIMARY KEY (singleton);

ALTER TABLE ONLY public.job_failures
    ADD CONSTRAINT job_failures_pkey PRIMARY KEY (job_id, credential_id);

ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.key_floors
    ADD CONSTRAINT key_floors_pkey PRIMARY KEY (transit_key);

ALTER TABLE ONLY public.key_versions
    ADD CONSTRAINT key_versions_pkey PRIMARY KEY (transit_key, version);

ALTER TABLE ONLY public.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY public.suspensions
    ADD CONSTRAINT suspensions_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.write_intents
    ADD CONSTRAINT write_intents_pkey PRIMARY KEY (id);

CREATE INDEX credential_events_by_credential ON ONLY public.credential_events USING btree (credential_id, at DESC, id DESC);

CREATE INDEX credential_events_by_encryption ON ONLY public.credential_events USING btree (transit_key, transit_key_version) WHERE ((outcome = 'done'::text) AND (action = ANY (ARRAY['store'::text, 'update'::text, 'rollback'::text, 'rewrap'::text])));

CREATE INDEX credential_events_by_user ON ONLY public.credential_events USING btree (user_id, at DESC, id DESC);

CREATE INDEX credential_events_by_xid ON ONLY public.credential_events USING btree (xid, id);

CREATE INDEX credential_events_default_credential_id_at_id_idx ON public.credential_events_default USING btree (credential_id, at DESC, id DESC);

CREATE INDEX credential_events_default_transit_key_transit_key_version_idx ON public.credential_events_default USING btree (transit_key, transit_key_version) WHERE ((outcome = 'done'::text) AND (action = ANY (ARRAY['store'::text, 'update'::text, 'rollback'::text, 'rewrap'::text])));

CREATE INDEX credential_events_default_user_id_at_id_idx ON public.credential_events_default USING btree (user_id, at DESC, id DESC);

CREATE INDEX credential_events_default_xid_id_idx ON public.credential_events_default USING btree (xid, id);

CREATE INDEX credentials_by_account ON public.credentials USING btree (account_id) WHERE (account_id IS NOT NULL);

CREATE INDEX credentials_by_key_version ON public.credentials USING btree (transit_key, transit_key_version, created_at, id);

CREATE INDEX credentials_by_key_version_pin ON public.credentials USING btree (transit_key, transit_key_version, pinned_at);

CREATE INDEX credentials_by_pin ON public.credentials USING btree (pinned_at DESC, id DESC);

CREATE INDEX credentials_by_previous_key_version ON public.credentials USING btree (transit_key, previous_transit_key_version) WHERE (previous_transit_key_version IS NOT NULL);

CREATE INDEX credentials_by_time ON public.credentials USING btree (created_at DESC, id DESC);

CREATE INDEX credentials_by_user ON public.credentials USING btree (user_id, created_at DESC, id DESC);

CREATE INDEX credentials_suspect ON public.credentials USING btree (credential_type, suspect_since) WHERE (suspect_since IS NOT NULL);

CREATE INDEX credentials_with_previous ON public.credentials USING btree (previous_expires_at) WHERE (previous_expires_at IS NOT NULL);

CREATE INDEX idempotency_keys_by_expiry ON public.idempotency_keys USING btree (expires_at);

CREATE INDEX jobs_by_time ON public.jobs USING btree (transit_key, requested_at DESC);

CREATE UNIQUE INDEX jobs_under_way ON public.jobs USING btree (transit_key, kind) WHERE (state = ANY (ARRAY['waiting'::text, 'running'::text]));

CREATE INDEX suspect_turns_by_time ON public.suspect_turns USING btree (at);

CREATE INDEX suspect_turns_by_type ON public.suspect_turns USING btree (credential_type, at);

CREATE UNIQUE INDEX suspended_accounts ON public.suspensions USING btree (account_id) WHERE (account_id IS NOT NULL);

CREATE UNIQUE INDEX suspended_users ON public.suspensions USING btree (user_id) WHERE (user_id IS NOT NULL);

CREATE INDEX write_intents_by_due ON public.write_intents USING btree (due_at);

CREATE INDEX write_intents_by_path ON public.write_intents USING btree (kv_path);

ALTER INDEX public.credential_events_by_credential ATTACH PARTITION public.credential_events_default_credential_id_at_id_idx;

ALTER INDEX public.credential_events_pkey ATTACH PARTITION public.credential_events_default_pkey;

ALTER INDEX public.credential_events_by_encryption ATTACH PARTITION public.credential_events_default_transit_key_transit_key_version_idx;

ALTER INDEX public.credential_events_by_user ATTACH PARTITION public.credential_events_default_user_id_at_id_idx;

ALTER INDEX public.credential_events_by_xid ATTACH PARTITION public.credential_events_default_xid_id_idx;

ALTER TABLE ONLY public.job_failures
    ADD CONSTRAINT job_failures_job_id_fkey FOREIGN KEY (job_id) REFERENCES public.jobs(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_transit_key_fkey FOREIGN KEY (transit_key) REFERENCES public.key_floors(transit_key);

GRANT USAGE ON SCHEMA public TO credentials_runtime;
GRANT USAGE ON SCHEMA public TO credentials_rotator;
GRANT USAGE ON SCHEMA public TO credentials_auditor;

REVOKE ALL ON FUNCTION public.ensure_event_partitions(months integer) FROM PUBLIC;

GRANT SELECT ON TABLE public.credential_events TO credentials_auditor;
GRANT SELECT ON TABLE public.credential_events TO credentials_rotator;

GRANT INSERT(credential_id) ON TABLE public.credential_events TO credentials_runtime;
GRANT INSERT(credential_id) ON TABLE public.credential_events TO credentials_rotator;

GRANT INSERT(user_id) ON TABLE public.credential_events TO credentials_runtime;
GRANT INSERT(user_id) ON TABLE public.credential_events TO credentials_rotator;

GRANT INSERT(account_id) ON TABLE public.credential_events TO credentials_runtime;
GRANT INSERT(account_id) ON TABLE public.credential_events TO credentials_rotator;

GRANT INSERT(acting_user) ON TABLE public.credential_events TO credentials_runtime;
GRANT INSERT(acting_user) ON TABLE public.credential_events TO credentials_rotator;

GRANT INSERT(actor) ON TABLE public.credential_events TO credentials_runtime;
GRANT INSERT(actor) ON TABLE public.credential_events TO credentials_rotator;

GRANT INSERT(action) ON TABLE public.credential_events TO credentials_runtime;
GRANT INSERT(action) ON TABLE public.credential_events TO credentials_rotator;

GRANT INSERT(outcome) ON TABLE public.credential_events TO credentials_runtime;
GRANT INSERT(outcome) ON TABLE public.credential_events TO credentials_rotator;

GRANT INSERT(reason) ON TABLE public.credential_events TO credentials_runtime;
GRANT INSERT(reason) ON TABLE public.credential_events TO credentials_rotator;

GRANT INSERT(transit_key_version) ON TABLE public.credential_events TO credentials_runtime;
GRANT INSERT(transit_key_version) ON TABLE public.credential_events TO credentials_rotator;

GRANT INSERT(batch_id) ON TABLE public.credential_events TO credentials_runtime;
GRANT INSERT(batch_id) ON TABLE public.credential_events TO credentials_rotator;

GRANT INSERT(request_id) ON TABLE public.credential_events TO credentials_runtime;
GRANT INSERT(request_id) ON TABLE public.credential_events TO credentials_rotator;

GRANT INSERT(transit_key) ON TABLE public.credential_events TO credentials_runtime;
GRANT INSERT(transit_key) ON TABLE public.credential_events TO credentials_rotator;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.credentials TO credentials_runtime;
GRANT SELECT ON TABLE public.credentials TO credentials_rotator;
GRANT SELECT ON TABLE public.credentials TO credentials_auditor;

GRANT UPDATE(transit_key_version) ON TABLE public.credentials TO credentials_rotator;

GRANT UPDATE(kv_version) ON TABLE public.credentials TO credentials_rotator;

GRANT UPDATE(previous_kv_version) ON TABLE public.credentials TO credentials_rotator;

GRANT UPDATE(previous_transit_key_version) ON TABLE public.credentials TO credentials_rotator;

GRANT UPDATE(pinned_at) ON TABLE public.credentials TO credentials_rotator;

GRANT SELECT,INSERT ON TABLE public.event_seals TO credentials_rotator;
GRANT SELECT ON TABLE public.event_seals TO credentials_runtime;
GRANT SELECT ON TABLE public.event_seals TO credentials_auditor;

GRANT SELECT,INSERT,DELETE ON TABLE public.idempotency_keys TO credentials_runtime;

GRANT SELECT ON TABLE public.installation TO credentials_runtime;
GRANT SELECT ON TABLE public.installation TO credentials_rotator;
GRANT SELECT ON TABLE public.installation TO credentials_auditor;

GRANT SELECT,INSERT ON TABLE public.job_failures TO credentials_rotator;
GRANT SELECT ON TABLE public.job_failures TO credentials_runtime;
GRANT SELECT ON TABLE public.job_failures TO credentials_auditor;

GRANT SELECT ON TABLE public.jobs TO credentials_runtime;
GRANT SELECT ON TABLE public.jobs TO credentials_rotator;
GRANT SELECT ON TABLE public.jobs TO credentials_auditor;

GRANT INSERT(kind) ON TABLE public.jobs TO credentials_runtime;

GRANT INSERT(transit_key) ON TABLE public.jobs TO credentials_runtime;

GRANT INSERT(below_version) ON TABLE public.jobs TO credentials_runtime;

GRANT UPDATE(state) ON TABLE public.jobs TO credentials_rotator;

GRANT INSERT(requested_by) ON TABLE public.jobs TO credentials_runtime;

GRANT INSERT(request_id) ON TABLE public.jobs TO credentials_runtime;

GRANT UPDATE(started_at) ON TABLE public.jobs TO credentials_rotator;

GRANT UPDATE(heartbeat_at) ON TABLE public.jobs TO credentials_rotator;

GRANT UPDATE(ended_at) ON TABLE public.jobs TO credentials_rotator;

GRANT UPDATE(stop_requested_by) ON TABLE public.jobs TO credentials_runtime;

GRANT UPDATE(from_version) ON TABLE public.jobs TO credentials_rotator;

GRANT UPDATE(to_version) ON TABLE public.jobs TO credentials_rotator;

GRANT UPDATE(total) ON TABLE public.jobs TO credentials_rotator;

GRANT UPDATE(done) ON TABLE public.jobs TO credentials_rotator;

GRANT UPDATE(failed) ON TABLE public.jobs TO credentials_rotator;

GRANT UPDATE(reason) ON TABLE public.jobs TO credentials_rotator;

GRANT SELECT ON TABLE public.key_floors TO credentials_runtime;
GRANT SELECT ON TABLE public.key_floors TO credentials_rotator;
GRANT SELECT ON TABLE public.key_floors TO credentials_auditor;

GRANT UPDATE(min_version) ON TABLE public.key_floors TO credentials_rotator;

GRANT UPDATE(share_lock) ON TABLE public.key_floors TO credentials_runtime;

GRANT SELECT,INSERT ON TABLE public.key_versions TO credentials_rotator;
GRANT SELECT ON TABLE public.key_versions TO credentials_runtime;
GRANT SELECT ON TABLE public.key_versions TO credentials_auditor;

GRANT SELECT ON TABLE public.schema_migrations TO credentials_runtime;
GRANT SELECT ON TABLE public.schema_migrations TO credentials_rotator;
GRANT SELECT ON TABLE public.schema_migrations TO credentials_auditor;

GRANT SELECT,INSERT,DELETE ON TABLE public.suspect_turns TO credentials_runtime;

GRANT SELECT,DELETE ON TABLE public.suspensions TO credentials_runtime;
GRANT SELECT ON TABLE public.suspensions TO credentials_auditor;

GRANT INSERT(user_id) ON TABLE public.suspensions TO credentials_runtime;

GRANT INSERT(account_id) ON TABLE public.suspensions TO credentials_runtime;

GRANT INSERT(reason) ON TABLE public.suspensions TO credentials_runtime;

GRANT INSERT(suspended_by) ON TABLE public.suspensions TO credentials_runtime;

GRANT SELECT,INSERT,DELETE ON TABLE public.write_intents TO credentials_runtime;
GRANT SELECT,INSERT,DELETE ON TABLE public.write_intents TO credentials_rotator;

GRANT UPDATE(due_at) ON TABLE public.write_intents TO credentials_runtime;
