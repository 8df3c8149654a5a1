-- What people said about items. Rows are only added: a correction is a newer row of the same labeler, an undo a row that
-- withdraws one, so the history of a label is the table itself.
CREATE TABLE labels (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    verdict   INTEGER NOT NULL REFERENCES verdicts (id),
    class     TEXT CHECK (class <> ''),                -- NULL: the labeler could not tell
    labeler   TEXT NOT NULL CHECK (labeler <> ''),
    at        TEXT NOT NULL,
    withdraws INTEGER REFERENCES labels (id)           -- set: this row says nothing but that that one no longer holds
);
CREATE INDEX labels_by_item ON labels (verdict, labeler, id);
CREATE INDEX labels_by_labeler ON labels (labeler, id);
CREATE UNIQUE INDEX labels_withdrawn_once ON labels (withdraws) WHERE withdraws IS NOT NULL;
CREATE TRIGGER labels_stay BEFORE DELETE ON labels BEGIN SELECT RAISE(ABORT, 'labels are only added'); END;
CREATE TRIGGER labels_do_not_change BEFORE UPDATE ON labels BEGIN SELECT RAISE(ABORT, 'labels are only added'); END;

-- Labels that were not withdrawn.
CREATE VIEW standing_labels AS
    SELECT id, verdict, class, labeler, at FROM labels AS l
    WHERE withdraws IS NULL AND NOT EXISTS (SELECT 1 FROM labels AS w WHERE w.withdraws = l.id);

-- What each person says now about an item: the newest label that stands.
CREATE VIEW current_labels AS
    SELECT id, verdict, class, labeler, at FROM standing_labels AS l
    WHERE NOT EXISTS (SELECT 1 FROM standing_labels AS n
                      WHERE n.verdict = l.verdict AND n.labeler = l.labeler AND n.id > l.id);

-- Verdicts whose picture was kept: the only ones that can be labeled.
CREATE INDEX verdicts_with_frame ON verdicts (id) WHERE frame IS NOT NULL;
