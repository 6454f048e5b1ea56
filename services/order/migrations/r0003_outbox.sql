-- Grows with each change that makes an event.
ALTER TABLE orders.orders ADD COLUMN version bigint NOT NULL DEFAULT 1;

CREATE TABLE orders.outbox (
    -- The order in which changes were made. Of one order it is the order of its versions, as a later change of the
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

CREATE INDEX outbox_new ON orders.outbox (seq) WHERE number IS NULL;
CREATE UNIQUE INDEX outbox_numbered ON orders.outbox (number) WHERE number IS NOT NULL;

-- Triggers write the events, so that no statement can forget to.
CREATE FUNCTION orders.next_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    RETURN NEW;
END $$;

CREATE TRIGGER next_version BEFORE UPDATE ON orders.orders
FOR EACH ROW WHEN (NEW.state IS DISTINCT FROM OLD.state) EXECUTE FUNCTION orders.next_version();

CREATE FUNCTION orders.record_created() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO orders.outbox (type, subject, version, body)
    SELECT 'order.created', id, version, to_jsonb(changed) FROM changed;
    IF FOUND THEN PERFORM pg_notify('orders_outbox', 'new'); END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER record_created AFTER INSERT ON orders.orders
REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION orders.record_created();

CREATE FUNCTION orders.record_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO orders.outbox (type, subject, version, body)
    SELECT 'order.' || lower(changed.state), id, changed.version, to_jsonb(changed)
    FROM changed JOIN before USING (id)
    WHERE changed.version <> before.version;
    IF FOUND THEN PERFORM pg_notify('orders_outbox', 'new'); END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER record_changed AFTER UPDATE ON orders.orders
REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION orders.record_changed();
