-- Key rotation: jobs, when each pin was set, which key an event is about; and seals over the events.
-- Run as the owner.

-- When the row was last pinned to a KV version: by a store, an update, a rollback or a rewrap. After a restore of Vault
-- or of Postgres, it is the newest pins that don't fit.
ALTER TABLE credentials ADD COLUMN pinned_at timestamptz;
UPDATE credentials SET pinned_at = updated_at;
ALTER TABLE credentials ALTER COLUMN pinned_at SET DEFAULT clock_timestamp(), ALTER COLUMN pinned_at SET NOT NULL;
CREATE INDEX credentials_by_pin ON credentials (pinned_at DESC, id DESC);
-- Counts and the oldest under each key version, from the index alone.
DROP INDEX credentials_by_key_version;
CREATE INDEX credentials_by_key_version ON credentials (transit_key, transit_key_version, created_at, id);
-- The oldest pin under each key version: one from before the version was made is of another Vault than today's.
CREATE INDEX credentials_by_key_version_pin ON credentials (transit_key, transit_key_version, pinned_at);
-- Retiring counts kept secrets too, while every write waits.
CREATE INDEX credentials_by_previous_key_version ON credentials (transit_key, previous_transit_key_version)
    WHERE previous_transit_key_version IS NOT NULL;

-- Rotations and rewraps are done for nobody in particular, and some events are about a key and no credential.
ALTER TABLE credential_events ALTER COLUMN acting_user DROP NOT NULL;
ALTER TABLE credential_events ADD COLUMN transit_key text;
-- The transaction that wrote the event. Sealing goes by it: every event of a transaction below the oldest one that is
-- still under way is there, and no more of them will come.
ALTER TABLE credential_events ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX credential_events_by_xid ON credential_events (xid, id);
-- What was encrypted under a key version.
CREATE INDEX credential_events_by_encryption ON credential_events (transit_key, transit_key_version)
    WHERE outcome = 'done' AND action IN ('store', 'update', 'rollback', 'rewrap');
GRANT INSERT (transit_key) ON credential_events TO credentials_runtime, credentials_rotator;

-- What is asked of whoever has the rotator's login to Vault. The runtime may ask, and ask for a stop; it can't do it.
CREATE TABLE jobs (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    kind              text NOT NULL CHECK (kind IN ('rotate', 'rewrap', 'retire')),
    transit_key       text NOT NULL REFERENCES key_floors (transit_key),
    below_version     integer CHECK (below_version > 0),
    state             text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done', 'failed')),
    requested_by      text NOT NULL,
    request_id        text,
    requested_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at        timestamptz,
    heartbeat_at      timestamptz,
    ended_at          timestamptz,
    stop_requested_by text,
    from_version      integer, -- the key's newest version when a rotation began
    to_version        integer, -- the key's newest version: that a rewrap goes to, or a rotation made
    total             bigint,
    done              bigint NOT NULL DEFAULT 0,
    failed            bigint NOT NULL DEFAULT 0,
    reason            text,
    CHECK ((kind = 'retire') = (below_version IS NOT NULL)),
    CHECK ((state IN ('done', 'failed')) = (ended_at IS NOT NULL))
);
-- Asked twice at once, it is one job.
CREATE UNIQUE INDEX jobs_under_way ON jobs (transit_key, kind) WHERE state IN ('waiting', 'running');
CREATE INDEX jobs_by_time ON jobs (transit_key, requested_at DESC);

-- Which credentials a job could not do, or (retire: the first hundred) found to be in the way.
CREATE TABLE job_failures (
    job_id        uuid NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    credential_id uuid NOT NULL,
    reason        text NOT NULL,
    PRIMARY KEY (job_id, credential_id)
);

-- When Vault made which version, by its own clock: it tells nothing of those below min_decryption_version, nor of trimmed
-- ones.
CREATE TABLE key_versions (
    transit_key text NOT NULL,
    version     integer NOT NULL,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (transit_key, version)
);
GRANT SELECT, INSERT ON key_versions TO credentials_rotator;
GRANT SELECT ON key_versions TO credentials_runtime, credentials_auditor;

GRANT SELECT, INSERT (kind, transit_key, below_version, requested_by, request_id), UPDATE (stop_requested_by)
    ON jobs TO credentials_runtime;
GRANT SELECT, UPDATE (state, started_at, heartbeat_at, ended_at, from_version, to_version, total, done, failed, reason)
    ON jobs TO credentials_rotator;
GRANT SELECT, INSERT ON job_failures TO credentials_rotator;
GRANT SELECT ON job_failures TO credentials_runtime;
GRANT SELECT ON jobs, job_failures TO credentials_auditor;
GRANT UPDATE (pinned_at) ON credentials TO credentials_rotator;

-- Seals over the events, each signed by Vault together with the one before. Which events one covers:
-- `service/modules/event_chain.py`. The time is whatever Postgres' clock said.
CREATE TABLE event_seals (
    number        bigint PRIMARY KEY CHECK (number > 0),
    sealed_at     timestamptz NOT NULL,
    cluster_id    bigint NOT NULL, -- the database cluster's system identifier: each counts its transactions by itself
    after_id      bigint NOT NULL, -- events up to this one are of an earlier cluster
    upto_id       bigint NOT NULL, -- the greatest event number, up to here
    from_xid      xid8 NOT NULL,
    upto_xid      xid8 NOT NULL,
    events        bigint NOT NULL,
    events_sha256 bytea NOT NULL CHECK (octet_length(events_sha256) = 32),
    seal_sha256   bytea NOT NULL CHECK (octet_length(seal_sha256) = 32),
    key_version   integer NOT NULL,
    signature     bytea NOT NULL
);
GRANT SELECT, INSERT ON event_seals TO credentials_rotator;
GRANT SELECT ON event_seals TO credentials_runtime, credentials_auditor;
GRANT SELECT ON credential_events TO credentials_rotator;
