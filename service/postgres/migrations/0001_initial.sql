-- The whole of what Postgres keeps: metadata and transit-key references. No plaintext, no ciphertext, no key.
-- Run as the owner. Roles are cluster-wide groups without login; deployments grant them to login roles of their own.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['credentials_runtime', 'credentials_rotator', 'credentials_auditor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            BEGIN
                -- NOINHERIT: the runtime reads events only after SET ROLE credentials_auditor, in the one place that does
                EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- another database of this cluster is being migrated side by side
            END;
        END IF;
    END LOOP;
END
$$;

-- One row: which installation this database belongs to. Provisioning writes the same id to Vault.
CREATE TABLE installation (
    singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    id         uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO installation DEFAULT VALUES;

CREATE TABLE credentials (
    id                           uuid PRIMARY KEY,
    user_id                      text NOT NULL CHECK (user_id <> '' AND octet_length(user_id) <= 1024),
    account_id                   uuid NOT NULL,
    credential_type              text NOT NULL,
    account_type                 text CHECK (account_type IN ('paper', 'live')),
    is_active                    boolean NOT NULL DEFAULT true,
    -- the transit-key reference
    transit_mount                text NOT NULL,
    transit_key                  text NOT NULL,
    transit_key_version          integer NOT NULL CHECK (transit_key_version > 0),
    binding                      bytea NOT NULL CHECK (octet_length(binding) = 32),
    kv_mount                     text NOT NULL,
    kv_path                      text NOT NULL,
    kv_version                   integer NOT NULL CHECK (kv_version > 0),
    secret_version               bigint NOT NULL CHECK (secret_version > 0),
    -- the pin before the last update, for a rollback until it expires
    previous_kv_version          integer,
    previous_secret_version      bigint,
    previous_transit_key_version integer,
    previous_expires_at          timestamptz,
    -- counts what a user changes; a rewrap leaves it alone
    row_version                  bigint NOT NULL DEFAULT 1,
    validation_state             text NOT NULL DEFAULT 'unvalidated'
                                 CHECK (validation_state IN ('unvalidated', 'valid', 'invalid')),
    last_validated_at            timestamptz,
    last_used_at                 timestamptz,
    broken_since                 timestamptz,
    created_at                   timestamptz NOT NULL DEFAULT now(),
    updated_at                   timestamptz NOT NULL DEFAULT now(),
    CHECK (num_nulls(previous_kv_version, previous_secret_version,
                     previous_transit_key_version, previous_expires_at) IN (0, 4))
);
CREATE INDEX credentials_by_user ON credentials (user_id, created_at DESC, id DESC);
CREATE INDEX credentials_by_time ON credentials (created_at DESC, id DESC);
CREATE INDEX credentials_by_key_version ON credentials (transit_key, transit_key_version);
CREATE INDEX credentials_with_previous ON credentials (previous_expires_at) WHERE previous_expires_at IS NOT NULL;

-- A KV version that is about to be written, or (kv_version null) a path about to be deleted. Committed before Vault is
-- asked; the writer's last transaction deletes it. What a crash leaves is found here and nowhere else.
CREATE TABLE write_intents (
    id            uuid PRIMARY KEY,
    credential_id uuid NOT NULL,
    kv_path       text NOT NULL CHECK (kv_path ~ '^[0-9a-f-]{36}/[0-9a-f-]{36}$'),
    kv_version    integer,
    started_at    timestamptz NOT NULL DEFAULT now(),
    due_at        timestamptz NOT NULL
);
CREATE INDEX write_intents_by_due ON write_intents (due_at);
CREATE INDEX write_intents_by_path ON write_intents (kv_path);

-- Below which key version nothing may be written any more. Writers take it FOR SHARE, retiring takes it FOR UPDATE.
CREATE TABLE key_floors (
    transit_key text PRIMARY KEY,
    min_version integer NOT NULL DEFAULT 1 CHECK (min_version > 0),
    -- Postgres lets a role lock a row only if it may update some column of it: the runtime may update this one alone.
    share_lock  boolean NOT NULL DEFAULT true
);

-- Append-only: the runtime may INSERT and nothing else. No foreign key: events outlive their credential.
CREATE TABLE credential_events (
    id                  bigint GENERATED ALWAYS AS IDENTITY,
    at                  timestamptz NOT NULL DEFAULT clock_timestamp(),
    credential_id       uuid,
    user_id             text,
    account_id          uuid,
    acting_user         text NOT NULL,
    actor               text NOT NULL,
    action              text NOT NULL,
    outcome             text NOT NULL CHECK (outcome IN ('granted', 'denied', 'done', 'failed')),
    reason              text,
    transit_key_version integer,
    batch_id            uuid,
    request_id          text,
    PRIMARY KEY (at, id)
) PARTITION BY RANGE (at);
-- A month without a partition of its own stops nothing.
CREATE TABLE credential_events_default PARTITION OF credential_events DEFAULT;
CREATE INDEX credential_events_by_credential ON credential_events (credential_id, at DESC, id DESC);
CREATE INDEX credential_events_by_user ON credential_events (user_id, at DESC, id DESC);

-- Makes this month's partition of the events and the next ones'. A month that already has events in the default
-- partition stays there.
CREATE FUNCTION ensure_event_partitions(months integer) RETURNS void LANGUAGE plpgsql AS $$
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
REVOKE EXECUTE ON FUNCTION ensure_event_partitions(integer) FROM PUBLIC;

CREATE TABLE idempotency_keys (
    actor           text NOT NULL,
    user_id         text NOT NULL,
    route           text NOT NULL,
    key             text NOT NULL,
    body_mac        bytea NOT NULL, -- an HMAC of the request's body, under a key that only Vault has
    mac_key_version integer NOT NULL,
    credential_id   uuid NOT NULL,
    expires_at      timestamptz NOT NULL,
    PRIMARY KEY (actor, user_id, route, key)
);
CREATE INDEX idempotency_keys_by_expiry ON idempotency_keys (expires_at);

GRANT USAGE ON SCHEMA public TO credentials_runtime, credentials_rotator, credentials_auditor;

GRANT SELECT ON installation, schema_migrations TO credentials_runtime, credentials_rotator, credentials_auditor;
-- Whatever is written into a row of `credentials`, its ciphertext opens as what it was made for or not at all.
GRANT SELECT, INSERT, UPDATE, DELETE ON credentials TO credentials_runtime;
GRANT SELECT, INSERT, UPDATE (due_at), DELETE ON write_intents TO credentials_runtime;
GRANT SELECT, INSERT, DELETE ON idempotency_keys TO credentials_runtime;
GRANT SELECT, UPDATE (share_lock) ON key_floors TO credentials_runtime;
-- Not `id` and `at`: whoever writes an event doesn't choose when it happened.
GRANT INSERT (credential_id, user_id, account_id, acting_user, actor, action, outcome, reason, transit_key_version,
              batch_id, request_id)
    ON credential_events TO credentials_runtime, credentials_rotator;
-- Reading events is the auditor's; the service does it under SET LOCAL ROLE (see NOINHERIT above).
GRANT credentials_auditor TO credentials_runtime;

GRANT SELECT ON credentials, key_floors, write_intents TO credentials_rotator;
GRANT UPDATE (transit_key_version, kv_version, previous_kv_version, previous_transit_key_version)
    ON credentials TO credentials_rotator;
GRANT INSERT, DELETE ON write_intents TO credentials_rotator;
GRANT UPDATE (min_version) ON key_floors TO credentials_rotator;

GRANT SELECT ON credentials, credential_events, key_floors TO credentials_auditor;
