-- What CreateOrder asks of Postgres for a new order: is it there, and one INSERT that commits. Run by pgbench.
\set high random(10000000, 99999999)
\set low random(100000000000, 999999999999)
SELECT * FROM orders.orders WHERE request_id = (:high::text || '-0000-4000-8000-' || :low::text)::uuid;
INSERT INTO orders.orders
    (next_attempt_time, id, request_id, fingerprint, customer_id, lines, currency, total_units, total_nanos)
SELECT now() + interval '5 s', given.*
FROM unnest(
    ARRAY[gen_random_uuid()], ARRAY[(:high::text || '-0000-4000-8000-' || :low::text)::uuid],
    ARRAY[sha256(:low::text::bytea)], ARRAY['72eb9914-b39b-4b12-96c7-6ff5462a37f1'::uuid],
    ARRAY['[{"sku": "A-1", "quantity": 2, "units": 12, "nanos": 500000000}]'::jsonb], ARRAY['EUR'], ARRAY[25::bigint],
    ARRAY[0]
) AS given (id, request_id, fingerprint, customer_id, lines, currency, total_units, total_nanos)
ORDER BY request_id
ON CONFLICT (request_id) DO NOTHING
RETURNING *, set_config('meshwright.traceparent', '', true);
