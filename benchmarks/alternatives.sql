-- The usual service's tables and statements: the ciphertext in the row, an event for each opening.

-- name: make_tables
CREATE SCHEMA usual;
CREATE TABLE usual.credentials (
    id uuid PRIMARY KEY,
    user_id text NOT NULL,
    is_active boolean NOT NULL DEFAULT true,
    context text NOT NULL,
    ciphertext text NOT NULL
);
CREATE TABLE usual.access_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    credential_id uuid NOT NULL,
    user_id text NOT NULL,
    action text NOT NULL
);
CREATE INDEX access_events_by_credential ON usual.access_events (credential_id, at DESC);

-- name: authorise
SELECT ciphertext, context FROM usual.credentials WHERE id = $1 AND user_id = $2 AND is_active;

-- name: record
INSERT INTO usual.access_events (credential_id, user_id, action) VALUES ($1, $2, 'open');

-- name: ciphertexts
SELECT ciphertext, context FROM usual.credentials LIMIT $1;
