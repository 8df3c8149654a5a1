-- The verdicts of a picture, asked for when its time is over.
CREATE INDEX verdicts_by_frame ON verdicts (frame) WHERE frame IS NOT NULL;
