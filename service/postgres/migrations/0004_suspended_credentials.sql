-- How many credentials a suspended account has: a kill switch that was thrown for a mistyped id says 0.
-- Run as the owner. Writes to the table wait while it is made, reads don't: about a second for a million rows.

CREATE INDEX credentials_by_account ON credentials (account_id) WHERE account_id IS NOT NULL;
