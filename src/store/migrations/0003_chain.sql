-- The record: one row an entry, in an order that can't be changed unseen. hash = SHA-256 over the previous entry's
-- hash, seq, verdict (0 for none) and body; see src/store/chain.rs.
CREATE TABLE record (
    seq     INTEGER PRIMARY KEY,  -- 1, 2, 3 … without a gap
    verdict INTEGER,              -- the verdict that this entry holds fast; NULL for any other event
    body    BLOB NOT NULL,        -- for a verdict the SHA-256 of its body in `verdicts`, 32 bytes; else the event, JSON text
    hash    BLOB NOT NULL,
    kind    TEXT AS (CASE WHEN verdict IS NULL THEN json_extract(body, '$.kind') END),
    lot     INTEGER AS (CASE WHEN verdict IS NULL THEN json_extract(body, '$.lot') END)
);
CREATE INDEX record_events ON record (seq) WHERE verdict IS NULL;
CREATE INDEX record_events_by_kind ON record (kind, seq) WHERE verdict IS NULL;
CREATE INDEX record_events_by_lot ON record (lot, seq) WHERE verdict IS NULL;

-- The newest entry, signed with every commit.
CREATE TABLE head (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    seq       INTEGER NOT NULL,
    hash      BLOB NOT NULL,
    time      TEXT NOT NULL,
    signature BLOB NOT NULL
);

-- Every 1,024th entry, signed for good.
CREATE TABLE checkpoints (
    seq       INTEGER PRIMARY KEY,
    hash      BLOB NOT NULL,
    time      TEXT NOT NULL,
    signature BLOB NOT NULL
);

-- Against mistakes; whoever wants to forge drops these, and is found by the hashes.
CREATE TRIGGER record_stays BEFORE UPDATE ON record BEGIN SELECT RAISE(ABORT, 'the record is append-only'); END;
CREATE TRIGGER record_is_kept BEFORE DELETE ON record BEGIN SELECT RAISE(ABORT, 'the record is append-only'); END;
CREATE TRIGGER verdicts_stay BEFORE UPDATE ON verdicts BEGIN SELECT RAISE(ABORT, 'verdicts are append-only'); END;

ALTER TABLE verdicts ADD COLUMN lot INTEGER AS (json_extract(body, '$.lot'));
CREATE INDEX verdicts_by_lot ON verdicts (lot, id) WHERE lot IS NOT NULL;
