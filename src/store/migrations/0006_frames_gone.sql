-- Pictures that were removed: the verdicts up to `upto` that name one have none any more. (The same picture may come
-- again the same day, under the same key; verdicts after that have it.)
CREATE TABLE frames_gone (
    key  TEXT PRIMARY KEY,
    upto INTEGER NOT NULL
) WITHOUT ROWID;
