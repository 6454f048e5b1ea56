-- Empty unless something other than CancelOrder cancelled it.
ALTER TABLE orders.orders ADD COLUMN cancel_reason text NOT NULL DEFAULT '';

-- Events of other services that have had their effect here: a row commits with it.
CREATE TABLE orders.inbox (
    consumer text   NOT NULL,
    service  text   NOT NULL,
    number   bigint NOT NULL,
    PRIMARY KEY (consumer, service, number)
);
