ALTER TABLE orders.orders
    -- How often work on it began. With the worker's name it tells one claim from every other.
    ADD COLUMN attempts          integer     NOT NULL DEFAULT 0,
    -- While PENDING: not before this.
    ADD COLUMN next_attempt_time timestamptz NOT NULL DEFAULT now(),
    -- While PROCESSING: who works on it, and until when that is believed.
    ADD COLUMN worker            text        NOT NULL DEFAULT '',
    ADD COLUMN lease_expires     timestamptz;

CREATE INDEX orders_due ON orders.orders (next_attempt_time) WHERE state = 'PENDING';
CREATE INDEX orders_leased ON orders.orders (lease_expires) WHERE state = 'PROCESSING';
