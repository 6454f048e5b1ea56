CREATE TABLE status.task_results (
    id            uuid        PRIMARY KEY,
    task          text        NOT NULL,
    state         text        NOT NULL CHECK (state IN ('RUNNING', 'SUCCEEDED', 'FAILED', 'SKIPPED')),
    instance      text        NOT NULL,
    schedule_time timestamptz NOT NULL,
    start_time    timestamptz NOT NULL DEFAULT now(),
    end_time      timestamptz,
    summary       text        NOT NULL DEFAULT '',
    error         text        NOT NULL DEFAULT '',
    -- However many believe that they lead, a task runs once for each time at which it is due.
    UNIQUE (task, schedule_time)
);

CREATE INDEX task_results_newest ON status.task_results (start_time DESC, id DESC);
CREATE INDEX task_results_newest_of_task ON status.task_results (task, start_time DESC, id DESC);
CREATE INDEX task_results_newest_in_state ON status.task_results (state, start_time DESC, id DESC);
