-- What was to serve, one row a change that the service saw; the newest one says what must lie beside the store.
CREATE TABLE serving (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    time       TEXT NOT NULL,     -- when it was seen (RFC 3339)
    seen       TEXT NOT NULL,     -- `running`, or `start`: it came while the service was down
    change     TEXT NOT NULL,     -- `promote` or `rollback`, by the registry; `first`; `edited`: nothing explains it
    at         TEXT NOT NULL,     -- when it was made, by the registry
    who        TEXT NOT NULL,     -- who made it, by the registry
    why        TEXT NOT NULL,
    before     TEXT NOT NULL,     -- the version before; empty for none
    version    TEXT NOT NULL,     -- the version from then on
    model      TEXT NOT NULL,     -- SHA-256 of what its manifest says that decides; empty where it could not be read
    thresholds TEXT NOT NULL,     -- its thresholds as JSON; empty likewise
    changes    INTEGER NOT NULL,  -- how many the registry had
    history    TEXT NOT NULL,     -- SHA-256 of these
    root       TEXT NOT NULL      -- the models' folder
) STRICT;
CREATE TRIGGER serving_stays BEFORE UPDATE ON serving BEGIN SELECT RAISE(ABORT, 'what served is append-only'); END;
CREATE TRIGGER serving_is_kept BEFORE DELETE ON serving BEGIN SELECT RAISE(ABORT, 'what served is append-only'); END;
