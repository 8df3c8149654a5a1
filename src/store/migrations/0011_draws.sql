-- Items that were drawn for the audit when they were recorded, each with its chance: what people answer about them judges
-- students and bears promises, and never trains.
CREATE TABLE draws (
    verdict INTEGER PRIMARY KEY, -- the item's verdict; its document may be removed, the draw stays
    at      TEXT NOT NULL,       -- when its picture was taken (RFC 3339)
    chance  REAL NOT NULL,       -- with which it was drawn, above 0
    least   REAL NOT NULL        -- the least that any item had at that moment, above 0 and at most `chance`
) STRICT;
CREATE TRIGGER draws_stay BEFORE UPDATE ON draws BEGIN SELECT RAISE(ABORT, 'draws are only added'); END;
CREATE TRIGGER draws_are_kept BEFORE DELETE ON draws BEGIN SELECT RAISE(ABORT, 'draws are only added'); END;
