CREATE TABLE sync.users (
    id           uuid             PRIMARY KEY DEFAULT gen_random_uuid(),
    provider     text             NOT NULL,
    -- What finds a user again at the next run: `e:` and the externalId where there is one, else `u:` and the userName.
    match_key    text COLLATE "C" NOT NULL,
    external_id  text             NOT NULL,
    user_name    text COLLATE "C" NOT NULL,
    display_name text             NOT NULL,
    email        text             NOT NULL,
    phone        text             NOT NULL,
    active       boolean          NOT NULL,
    create_time  timestamptz      NOT NULL DEFAULT now(),
    update_time  timestamptz      NOT NULL DEFAULT now(),
    sync_time    timestamptz      NOT NULL DEFAULT now(),
    UNIQUE (provider, match_key)
);

CREATE INDEX users_by_name ON sync.users (user_name, id);
CREATE INDEX users_of_provider_by_name ON sync.users (provider, user_name, id);

CREATE TABLE sync.runs (
    id            uuid        PRIMARY KEY,
    request_id    uuid        NOT NULL UNIQUE,
    provider      text        NOT NULL,
    state         text        NOT NULL DEFAULT 'PENDING'
                  CHECK (state IN ('PENDING', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED')),
    fetched       integer     NOT NULL DEFAULT 0,
    created       integer     NOT NULL DEFAULT 0,
    updated       integer     NOT NULL DEFAULT 0,
    unchanged     integer     NOT NULL DEFAULT 0,
    failed        integer     NOT NULL DEFAULT 0,
    error         text        NOT NULL DEFAULT '',
    -- SCIM's 1-based index of the first user that is not stored yet: where a run goes on after a crash.
    next_index    integer     NOT NULL DEFAULT 1,
    -- Who works on it, and until when that is believed without a sign of life.
    worker        text        NOT NULL DEFAULT '',
    lease_expires timestamptz,
    create_time   timestamptz NOT NULL DEFAULT now(),
    start_time    timestamptz,
    end_time      timestamptz
);

CREATE INDEX runs_newest ON sync.runs (create_time DESC, id DESC);
CREATE INDEX runs_open ON sync.runs (create_time) WHERE state IN ('PENDING', 'RUNNING');
