-- What an event says of a user. Users change by the thousand, and as jsonb their bodies took a third of all that storing
-- them takes. A type of its own, as nobody could add a column with a default to a table whose row type a column has.
CREATE TYPE sync.user_body AS (
    id           uuid,
    provider     text,
    external_id  text,
    user_name    text,
    display_name text,
    email        text,
    phone        text,
    active       boolean,
    create_time  timestamptz,
    update_time  timestamptz,
    sync_time    timestamptz,
    version      bigint
);

CREATE FUNCTION sync.body_of(changed sync.users) RETURNS sync.user_body IMMUTABLE LANGUAGE sql
RETURN ROW(
    changed.id, changed.provider, changed.external_id, changed.user_name, changed.display_name, changed.email,
    changed.phone, changed.active, changed.create_time, changed.update_time, changed.sync_time, changed.version
)::sync.user_body;

ALTER TABLE sync.outbox
    ADD COLUMN user_body sync.user_body,
    ALTER COLUMN body DROP NOT NULL;

UPDATE sync.outbox SET user_body = jsonb_populate_record(NULL::sync.user_body, body), body = NULL WHERE type LIKE 'user.%';

-- `body` is that of runs, `user_body` that of users.
ALTER TABLE sync.outbox ADD CONSTRAINT one_body CHECK (num_nonnulls(body, user_body) = 1);

CREATE OR REPLACE FUNCTION sync.record_new_users() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO sync.outbox (type, subject, version, user_body)
    SELECT 'user.created', id, version, sync.body_of(changed) FROM changed;
    IF FOUND THEN PERFORM pg_notify('sync_outbox', 'new'); END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION sync.record_users() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO sync.outbox (type, subject, version, user_body)
    SELECT CASE WHEN before.active AND NOT changed.active THEN 'user.deactivated' ELSE 'user.updated' END,
        id, changed.version, sync.body_of(changed)
    FROM changed JOIN before USING (id)
    WHERE changed.version <> before.version;
    IF FOUND THEN PERFORM pg_notify('sync_outbox', 'new'); END IF;
    RETURN NULL;
END $$;
