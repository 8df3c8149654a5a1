-- The uid that was drawn for the item when its picture was taken; NULL in documents of before there were any.
ALTER TABLE verdicts ADD COLUMN uid TEXT AS (json_extract(body, '$.uid'));
CREATE INDEX verdicts_by_uid ON verdicts (uid) WHERE uid IS NOT NULL;
-- The item that a command or a sensor was about.
ALTER TABLE record ADD COLUMN uid TEXT AS (CASE WHEN verdict IS NULL THEN json_extract(body, '$.uid') END);
CREATE INDEX record_events_by_uid ON record (uid, seq) WHERE verdict IS NULL AND uid IS NOT NULL;
