-- One row a verdict. The verdict itself is the JSON document; the other columns are computed from it, so that they can
-- be filtered and read by hand without ever disagreeing with it.
CREATE TABLE verdicts (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    body     TEXT NOT NULL CHECK (json_valid(body)),
    time     TEXT AS (json_extract(body, '$.time')),
    source   TEXT AS (json_extract(body, '$.source')),
    action   TEXT AS (json_extract(body, '$.action')),
    reason   TEXT AS (json_extract(body, '$.reason')),
    class    TEXT AS (json_extract(body, '$.class')),
    model    TEXT AS (json_extract(body, '$.model')),
    frame    TEXT AS (json_extract(body, '$.frame'))
);
CREATE INDEX verdicts_by_action ON verdicts (action, id);
CREATE INDEX verdicts_by_source ON verdicts (source, id);
