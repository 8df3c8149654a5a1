-- What lists, tallies and searches would else count and look through, kept in the transaction that writes or removes the
-- verdicts; `record verify` counts again. Older stores are counted when they are opened; see src/store/tallies.rs.

-- Verdicts that are alike.
CREATE TABLE tallies (
    lot        INTEGER NOT NULL,  -- 0 for verdicts of no lot
    action     TEXT NOT NULL,
    class      TEXT,              -- NULL after a fault
    model      TEXT NOT NULL,
    thresholds TEXT NOT NULL,
    verdicts   INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX tallies_by_lot ON tallies (lot, action, class, model, thresholds);
-- All verdicts by action.
CREATE TABLE counts (
    action   TEXT PRIMARY KEY,
    verdicts INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- Verdicts of a lot that retention removed.
CREATE TABLE lots_removed (
    lot      INTEGER PRIMARY KEY,
    verdicts INTEGER NOT NULL
) STRICT;
-- Between which times the verdicts of 1,024 ids each were taken, in milliseconds since 1970.
CREATE TABLE spans (
    block INTEGER PRIMARY KEY,    -- id / 1024
    first INTEGER NOT NULL,
    last  INTEGER NOT NULL
) STRICT;

ALTER TABLE verdicts ADD COLUMN camera TEXT AS (json_extract(body, '$.camera'));
CREATE INDEX verdicts_by_class ON verdicts (class, id);
CREATE INDEX verdicts_by_camera ON verdicts (camera, id);
CREATE INDEX verdicts_taken_off ON verdicts (lot, id) WHERE lot IS NOT NULL AND action <> 'accept';
CREATE INDEX labels_by_class ON labels (class, id);
CREATE INDEX labels_of_class ON labels (class, verdict);
CREATE INDEX record_lots_by_name ON record (
    CASE WHEN verdict IS NULL THEN json_extract(body, '$.name') END,
    seq
) WHERE verdict IS NULL AND kind = 'lot_opened';
-- How each camera was last told to be.
CREATE INDEX record_camera_states ON record (
    CASE WHEN verdict IS NULL THEN json_extract(body, '$.camera') END,
    kind,
    seq
) WHERE verdict IS NULL AND kind IN ('camera_lost', 'camera_back', 'degraded', 'recovered');
-- How many items each person labels now; '' for items that somebody tells the class of.
CREATE TABLE label_counts (
    labeler TEXT PRIMARY KEY,
    items   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
