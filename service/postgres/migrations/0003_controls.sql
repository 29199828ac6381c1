-- The kill switch, and credentials that their provider has refused.
-- Run as the owner.

-- Whose credentials nobody may use: a user's, or an account's (of whichever user; accounts are the orchestrator's).
-- `authorise_opens` reads it in the statement that grants, so that what is committed here denies whatever comes after.
CREATE TABLE suspensions (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id      text CHECK (user_id <> '' AND octet_length(user_id) <= 1024),
    account_id   uuid,
    reason       text CHECK (octet_length(reason) <= 1024),
    suspended_by text NOT NULL,
    suspended_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (num_nonnulls(user_id, account_id) = 1)
);
CREATE UNIQUE INDEX suspended_users ON suspensions (user_id) WHERE user_id IS NOT NULL;
CREATE UNIQUE INDEX suspended_accounts ON suspensions (account_id) WHERE account_id IS NOT NULL;
GRANT SELECT, INSERT (user_id, account_id, reason, suspended_by), DELETE ON suspensions TO credentials_runtime;
GRANT SELECT ON suspensions TO credentials_auditor;

-- Since when its provider refuses the keys (401), in a validation or a call; reset by an update and by an acceptance.
ALTER TABLE credentials ADD COLUMN suspect_since timestamptz;
CREATE INDEX credentials_suspect ON credentials (credential_type, suspect_since) WHERE suspect_since IS NOT NULL;

-- Each time that a credential turned suspect, kept for a week whatever becomes of the credential: many of a type at once
-- are the provider's fault, also when some of them have been accepted, updated or deleted since.
CREATE TABLE suspect_turns (
    credential_type text NOT NULL,
    credential_id   uuid NOT NULL,
    user_id         text NOT NULL,
    at              timestamptz NOT NULL
);
CREATE INDEX suspect_turns_by_type ON suspect_turns (credential_type, at);
CREATE INDEX suspect_turns_by_time ON suspect_turns (at);
GRANT SELECT, INSERT, DELETE ON suspect_turns TO credentials_runtime;
