-- How often a run was claimed since it last came further.
ALTER TABLE sync.runs ADD COLUMN attempts integer NOT NULL DEFAULT 0;
