-- The statements about the table that credentials are imported from: an ancestor of this service kept them in Postgres,
-- each key in a column of its own, encrypted with Fernet. Its table's and columns' names are the user's; Postgres writes the
-- statements with them (`format`, %I), so that no SQL is built from strings here.

-- name: write_rows_fernet
-- $1: schema, $2: table; then the columns: id, user_id, account_id, credential_type or null, api_key, secret_key, is_active
-- or null, created_at or null. $11: the type where no column says it. In the order in which they were made. A time that
-- Python has none for is null, though the row `is_dated`: the driver would fail at it, and the rows after it with it.
SELECT format(
    'SELECT %3$I::text AS id, %4$I::text AS user_id, %5$I::text AS account_id, %6$s AS credential_type,'
    ' %7$I AS api_key, %8$I AS secret_key, %9$s AS is_active, %10$s'
    ' FROM %1$I.%2$I ORDER BY created_at, id',
    $1::text, $2::text, $3::text, $4::text, $5::text,
    CASE WHEN $6::text IS NULL THEN format('%L::text', $11::text) ELSE format('%I::text', $6::text) END,
    $7::text, $8::text,
    CASE WHEN $9::text IS NULL THEN 'true' ELSE format('%I::boolean', $9::text) END,
    CASE WHEN $10::text IS NULL THEN 'NULL::timestamptz AS created_at, false AS is_dated'
         ELSE format('CASE WHEN isfinite(%1$I::timestamptz) AND %1$I::timestamptz >= ''0001-01-02 00:00:00+00'''
                     ' AND %1$I::timestamptz < ''9999-12-31 00:00:00+00'' THEN %1$I::timestamptz END AS created_at,'
                     ' %1$I IS NOT NULL AS is_dated', $10::text) END);

-- name: write_count_fernet
-- $3: the id's column. How many rows, and how many different ids.
SELECT format('SELECT count(*) AS rows, count(DISTINCT %3$I::text) AS ids FROM %1$I.%2$I', $1::text, $2::text, $3::text);

-- name: write_wipe_fernet
-- $3 to $5: the columns of the id, api_key, secret_key. Both keys' columns become empty, of a row that is as it was read.
SELECT format(
    'UPDATE %1$I.%2$I SET %4$I = '''', %5$I = '''''
    ' WHERE %3$I::text = $1 AND %4$I IS NOT DISTINCT FROM $2 AND %5$I IS NOT DISTINCT FROM $3',
    $1::text, $2::text, $3::text, $4::text, $5::text);
