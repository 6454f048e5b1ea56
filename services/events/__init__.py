"""Events: what changed, from the transaction that changed it to whoever watches, lost nowhere on the way.

1. Triggers on the tables write each change into the schema's `outbox`, one statement for as many rows as changed. A
   statement that changes rows has nothing to do, and cannot forget it. So that an event carries the trace of its
   change, a statement may say `RETURNING ..., set_config('meshwright.traceparent', $n, true)` with
   `services.events.trace.current()`, or follow `trace.SET` in its transaction.
2. The relay (`relay`) numbers what has committed, 1, 2, 3 in each service, so that Postgres holds a log without gaps,
   and copies that log to one Redis Stream. Redis knows the last number that it has of each service: an emptied Redis is
   filled again from what the outbox keeps.
3. Watchers follow the log of their own service in Postgres (`changes`), or the stream of all (`hub`).
4. Consumers share the stream among them (`group`) and do something about each event, once (`consumer`, `inbox`). What
   cannot be done becomes a dead letter, which `python -m services replay` has done again.
"""
