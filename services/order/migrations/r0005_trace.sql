-- W3C trace context of the call that made the order, to which the work on it links; empty when there was no trace.
ALTER TABLE orders.orders ADD COLUMN traceparent text NOT NULL DEFAULT '';
