CREATE TABLE orders.orders (
    id          uuid        PRIMARY KEY,
    request_id  uuid        NOT NULL UNIQUE,
    -- SHA-256 of what was asked for, to tell a repetition from another request with the same id.
    fingerprint bytea       NOT NULL,
    customer_id uuid        NOT NULL,
    -- [{"sku", "quantity", "units", "nanos"}], whole numbers only.
    lines       jsonb       NOT NULL,
    currency    text        NOT NULL,
    total_units bigint      NOT NULL CHECK (total_units >= 0),
    total_nanos integer     NOT NULL CHECK (total_nanos BETWEEN 0 AND 999999999),
    state       text        NOT NULL DEFAULT 'PENDING'
                CHECK (state IN ('PENDING', 'PROCESSING', 'COMPLETED', 'FAILED', 'CANCELLED')),
    failure     text        NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX orders_newest ON orders.orders (create_time DESC, id DESC);
CREATE INDEX orders_newest_of_customer ON orders.orders (customer_id, create_time DESC, id DESC);
CREATE INDEX orders_newest_in_state ON orders.orders (state, create_time DESC, id DESC);
