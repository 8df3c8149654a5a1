-- Who changed what: one row a change asked for over HTTP, done or refused.
CREATE TABLE audit (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    time    TEXT NOT NULL,     -- when it was asked for (RFC 3339)
    name    TEXT NOT NULL,     -- the token's name; `local` when no token is set
    role    TEXT NOT NULL,
    address TEXT NOT NULL,     -- where the request came from
    method  TEXT NOT NULL,
    path    TEXT NOT NULL,
    status  INTEGER NOT NULL   -- how it was answered (HTTP)
) STRICT;
-- Against mistakes; whoever may write the file may also drop these.
CREATE TRIGGER audit_stays BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
