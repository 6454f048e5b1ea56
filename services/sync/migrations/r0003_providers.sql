ALTER TABLE sync.runs
    ADD COLUMN deactivated integer NOT NULL DEFAULT 0,
    ADD COLUMN problems    text[]  NOT NULL DEFAULT '{}',
    -- Match keys of the last users before next_index, and whether all users before it were seen without a gap. A run
    -- that an older program began does not know.
    ADD COLUMN tail        text[]  NOT NULL DEFAULT '{}',
    ADD COLUMN whole       boolean NOT NULL DEFAULT true;

UPDATE sync.runs SET whole = false WHERE next_index > 1;

-- One run of a provider is at work at a time. Where there are more, the oldest stays.
UPDATE sync.runs AS run
SET state = 'FAILED', error = 'another run of its provider was at work', end_time = now(), worker = '', lease_expires = NULL
WHERE state = 'RUNNING' AND EXISTS (
    SELECT FROM sync.runs AS other
    WHERE other.provider = run.provider AND other.state = 'RUNNING'
        AND (other.create_time, other.id) < (run.create_time, run.id)
);
CREATE UNIQUE INDEX runs_at_work ON sync.runs (provider) WHERE state = 'RUNNING';

-- Whom a run has seen: a row for each batch, with hashes of match keys. Gone when the run has ended. Must survive a crash
-- of Postgres with the run, or users would be taken for vanished.
CREATE TABLE sync.seen (
    run_id uuid     NOT NULL REFERENCES sync.runs,
    keys   bigint[] NOT NULL
);
ALTER TABLE sync.seen ALTER COLUMN keys SET STORAGE EXTERNAL; -- hashes cannot be packed
CREATE INDEX seen_by_run ON sync.seen (run_id);
