-- Grows with each change that makes an event.
ALTER TABLE sync.users ADD COLUMN version bigint NOT NULL DEFAULT 1;
ALTER TABLE sync.runs ADD COLUMN version bigint NOT NULL DEFAULT 1;

CREATE TABLE sync.outbox (
    -- The order in which changes were made. Of one row it is the order of its versions, as a later change of the
    -- same row can only begin when the earlier one has committed.
    seq         bigint      GENERATED ALWAYS AS IDENTITY,
    -- Place in the log of all committed changes: 1, 2, 3, without gaps. NULL until the relay has given it.
    number      bigint,
    type        text        NOT NULL,
    subject     uuid        NOT NULL,
    version     bigint      NOT NULL,
    time        timestamptz NOT NULL DEFAULT now(),
    -- W3C trace context of the change; empty when there was no trace.
    traceparent text        NOT NULL DEFAULT coalesce(current_setting('meshwright.traceparent', true), ''),
    -- The row after the change.
    body        jsonb       NOT NULL
);

CREATE INDEX outbox_new ON sync.outbox (seq) WHERE number IS NULL;
CREATE UNIQUE INDEX outbox_numbered ON sync.outbox (number) WHERE number IS NOT NULL;

-- Triggers write the events, so that no statement can forget to.
CREATE FUNCTION sync.next_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    RETURN NEW;
END $$;

CREATE TRIGGER next_version BEFORE UPDATE ON sync.runs
FOR EACH ROW WHEN (NEW.state IS DISTINCT FROM OLD.state) EXECUTE FUNCTION sync.next_version();

CREATE TRIGGER next_version BEFORE UPDATE ON sync.users
FOR EACH ROW WHEN (NEW.update_time IS DISTINCT FROM OLD.update_time) EXECUTE FUNCTION sync.next_version();

CREATE FUNCTION sync.record_new_runs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO sync.outbox (type, subject, version, body)
    SELECT 'sync.created', id, version, to_jsonb(changed) FROM changed;
    IF FOUND THEN PERFORM pg_notify('sync_outbox', 'new'); END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER record_new_runs AFTER INSERT ON sync.runs
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION sync.record_new_runs();

CREATE FUNCTION sync.record_runs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO sync.outbox (type, subject, version, body)
    SELECT 'sync.' || lower(changed.state), id, changed.version, to_jsonb(changed)
    FROM changed JOIN before USING (id)
    WHERE changed.version <> before.version;
    IF FOUND THEN PERFORM pg_notify('sync_outbox', 'new'); END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER record_runs AFTER UPDATE ON sync.runs
REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION sync.record_runs();

CREATE FUNCTION sync.record_new_users() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO sync.outbox (type, subject, version, body)
    SELECT 'user.created', id, version, to_jsonb(changed) FROM changed;
    IF FOUND THEN PERFORM pg_notify('sync_outbox', 'new'); END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER record_new_users AFTER INSERT ON sync.users
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION sync.record_new_users();

CREATE FUNCTION sync.record_users() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO sync.outbox (type, subject, version, body)
    SELECT CASE WHEN before.active AND NOT changed.active THEN 'user.deactivated' ELSE 'user.updated' END,
        id, changed.version, to_jsonb(changed)
    FROM changed JOIN before USING (id)
    WHERE changed.version <> before.version;
    IF FOUND THEN PERFORM pg_notify('sync_outbox', 'new'); END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER record_users AFTER UPDATE ON sync.users
REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION sync.record_users();
