-- What the entries of kind `row_held` hold: the newest one of a row says what the row must be.
CREATE INDEX record_rows ON record (
    CASE WHEN verdict IS NULL THEN json_extract(body, '$.table') END,
    CASE WHEN verdict IS NULL THEN json_extract(body, '$.row') END,
    seq
) WHERE verdict IS NULL AND kind = 'row_held';
