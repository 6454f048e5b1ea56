-- W3C trace context of the call that asked for the run, to which the work on it links; empty when there was no trace.
ALTER TABLE sync.runs ADD COLUMN traceparent text NOT NULL
    DEFAULT coalesce(current_setting('meshwright.traceparent', true), '');
