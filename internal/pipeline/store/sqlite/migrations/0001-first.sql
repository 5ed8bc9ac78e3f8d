-- Times are milliseconds since 1970, 0 for "not yet". JSON is text. Nothing here is SQLite's alone but AUTOINCREMENT
-- (PostgreSQL: GENERATED ALWAYS AS IDENTITY) and STRICT.

CREATE TABLE apps (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  name          TEXT    NOT NULL UNIQUE,
  description   TEXT    NOT NULL,
  source        TEXT    NOT NULL, -- JSON: kind, url, branch, credential
  pipeline_path TEXT    NOT NULL,
  pipeline_text TEXT    NOT NULL,
  concurrency   INTEGER NOT NULL,
  supersede     INTEGER NOT NULL,
  keep_runs     INTEGER NOT NULL,
  keep_days     INTEGER NOT NULL,
  version       INTEGER NOT NULL,
  created_at    INTEGER NOT NULL,
  updated_at    INTEGER NOT NULL
) STRICT;

CREATE TABLE variables (
  app_id     INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
  name       TEXT    NOT NULL,
  value      TEXT    NOT NULL,
  updated_at INTEGER NOT NULL,
  PRIMARY KEY (app_id, name)
) STRICT;

CREATE TABLE runs (
  id               INTEGER PRIMARY KEY AUTOINCREMENT,
  app_id           INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
  name             TEXT    NOT NULL,
  status           TEXT    NOT NULL,
  class            TEXT    NOT NULL,
  reason           TEXT    NOT NULL,
  cause            TEXT    NOT NULL,
  actor            TEXT    NOT NULL,
  delivery         INTEGER NOT NULL,
  commit_id        TEXT    NOT NULL,
  branch           TEXT    NOT NULL,
  tag              TEXT    NOT NULL,
  message          TEXT    NOT NULL,
  author           TEXT    NOT NULL,
  parent           INTEGER NOT NULL,
  mode             TEXT    NOT NULL,
  cancel_class     TEXT    NOT NULL, -- empty: nobody wants it to end
  cancel_by        TEXT    NOT NULL,
  cancel_reason    TEXT    NOT NULL,
  cancel_successor INTEGER NOT NULL,
  cancel_at        INTEGER NOT NULL,
  created_at       INTEGER NOT NULL,
  started_at       INTEGER NOT NULL,
  finished_at      INTEGER NOT NULL,
  seq              INTEGER NOT NULL  -- of the last event
) STRICT;
CREATE INDEX runs_by_app ON runs (app_id, id);
CREATE INDEX runs_by_branch ON runs (app_id, branch, id);
CREATE INDEX runs_by_status ON runs (status, id);
CREATE INDEX runs_by_app_and_status ON runs (app_id, status, id);
CREATE INDEX runs_unwanted ON runs (id) WHERE cancel_class <> '' AND status IN ('pending', 'queued', 'running');
CREATE INDEX runs_unfinished ON runs (app_id, id) WHERE status IN ('pending', 'queued', 'running');

-- What is large, apart from what is listed.
CREATE TABLE run_specs (
  run_id    INTEGER PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
  written   TEXT NOT NULL,
  resolved  TEXT NOT NULL,
  variables TEXT NOT NULL, -- JSON
  secrets   TEXT NOT NULL  -- JSON: scope, name, version
) STRICT;

CREATE TABLE tasks (
  run_id       INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  name         TEXT    NOT NULL,
  position     INTEGER NOT NULL,
  display_name TEXT    NOT NULL,
  template     TEXT    NOT NULL,
  runs_after   TEXT    NOT NULL, -- JSON
  gate         INTEGER NOT NULL,
  status       TEXT    NOT NULL,
  class        TEXT    NOT NULL,
  reason       TEXT    NOT NULL,
  attempts     INTEGER NOT NULL,
  exit_code    INTEGER NOT NULL,
  output       TEXT    NOT NULL, -- JSON: what the task left behind
  from_run     INTEGER NOT NULL,
  decided_by   TEXT    NOT NULL,
  decided      TEXT    NOT NULL, -- empty, approved or rejected
  comment      TEXT    NOT NULL,
  decided_at   INTEGER NOT NULL,
  queued_at    INTEGER NOT NULL,
  started_at   INTEGER NOT NULL,
  finished_at  INTEGER NOT NULL,
  PRIMARY KEY (run_id, name)
) STRICT;

-- The queue: rows with status queued wait, rows with status running are held under a lease.
CREATE TABLE attempts (
  run_id      INTEGER NOT NULL,
  task        TEXT    NOT NULL,
  number      INTEGER NOT NULL,
  epoch       INTEGER NOT NULL,
  status      TEXT    NOT NULL,
  class       TEXT    NOT NULL,
  error       TEXT    NOT NULL,
  hint        TEXT    NOT NULL,
  exit_code   INTEGER NOT NULL,
  output      TEXT    NOT NULL, -- JSON
  owner       TEXT    NOT NULL,
  lease_until INTEGER NOT NULL,
  not_before  INTEGER NOT NULL,
  queued_at   INTEGER NOT NULL,
  started_at  INTEGER NOT NULL,
  finished_at INTEGER NOT NULL,
  PRIMARY KEY (run_id, task, number),
  FOREIGN KEY (run_id, task) REFERENCES tasks (run_id, name) ON DELETE CASCADE
) STRICT;
CREATE INDEX attempts_queued ON attempts (queued_at, run_id, task) WHERE status = 'queued';
CREATE INDEX attempts_running ON attempts (run_id, task) WHERE status = 'running';

CREATE TABLE run_events (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  run_id  INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  seq     INTEGER NOT NULL,
  at      INTEGER NOT NULL,
  kind    TEXT    NOT NULL,
  task    TEXT    NOT NULL,
  attempt INTEGER NOT NULL,
  data    TEXT    NOT NULL, -- JSON
  UNIQUE (run_id, seq)
) STRICT;

CREATE TABLE logs (
  run_id  INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  task    TEXT    NOT NULL,
  attempt INTEGER NOT NULL,
  stream  TEXT    NOT NULL,
  bytes   INTEGER NOT NULL,
  lines   INTEGER NOT NULL,
  sealed  INTEGER NOT NULL,
  PRIMARY KEY (run_id, task, attempt, stream)
) STRICT;

CREATE TABLE log_marks (
  run_id      INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  task        TEXT    NOT NULL,
  attempt     INTEGER NOT NULL,
  stream      TEXT    NOT NULL,
  line        INTEGER NOT NULL,
  byte_offset INTEGER NOT NULL,
  PRIMARY KEY (run_id, task, attempt, stream, line)
) STRICT;

CREATE TABLE deliveries (
  id           INTEGER PRIMARY KEY AUTOINCREMENT,
  app_id       INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
  provider     TEXT    NOT NULL,
  delivery     TEXT    NOT NULL,
  event        TEXT    NOT NULL,
  header       TEXT    NOT NULL, -- JSON
  body         BLOB    NOT NULL,
  status       TEXT    NOT NULL,
  reason       TEXT    NOT NULL,
  run          INTEGER NOT NULL,
  attempts     INTEGER NOT NULL,
  epoch        INTEGER NOT NULL,
  due_at       INTEGER NOT NULL,
  replay_of    INTEGER NOT NULL,
  requested_by TEXT    NOT NULL,
  received_at  INTEGER NOT NULL,
  processed_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX deliveries_once ON deliveries (app_id, provider, delivery) WHERE delivery <> '';
CREATE INDEX deliveries_due ON deliveries (due_at, id) WHERE status = 'received';
CREATE INDEX deliveries_by_app ON deliveries (app_id, id);

CREATE TABLE messages (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  kind       TEXT    NOT NULL,
  key        TEXT    NOT NULL,
  run        INTEGER NOT NULL,
  body       BLOB    NOT NULL,
  status     TEXT    NOT NULL,
  attempts   INTEGER NOT NULL,
  error      TEXT    NOT NULL,
  epoch      INTEGER NOT NULL,
  due_at     INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  sent_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX messages_due ON messages (due_at, id) WHERE status = 'waiting';
CREATE INDEX messages_by_key ON messages (kind, key) WHERE status = 'waiting';
CREATE INDEX messages_by_run ON messages (run, id);

CREATE TABLE secrets (
  scope      TEXT    NOT NULL,
  name       TEXT    NOT NULL,
  version    INTEGER NOT NULL,
  sealed     BLOB,             -- NULL: destroyed
  created_at INTEGER NOT NULL,
  created_by TEXT    NOT NULL,
  PRIMARY KEY (scope, name, version)
) STRICT;

CREATE TABLE tokens (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  name       TEXT    NOT NULL,
  hash       BLOB    NOT NULL UNIQUE,
  role       TEXT    NOT NULL,
  apps       TEXT    NOT NULL, -- JSON: name -> role
  read_only  INTEGER NOT NULL,
  created_by TEXT    NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  used_at    INTEGER NOT NULL,
  revoked_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX tokens_by_name ON tokens (name) WHERE revoked_at = 0;

CREATE TABLE audit (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  at      INTEGER NOT NULL,
  actor   TEXT    NOT NULL,
  action  TEXT    NOT NULL,
  result  TEXT    NOT NULL,
  app     TEXT    NOT NULL,
  subject TEXT    NOT NULL,
  remote  TEXT    NOT NULL,
  detail  TEXT    NOT NULL
) STRICT;
CREATE INDEX audit_by_app ON audit (app, id);

-- One row: the wall clock and the machine's own clock when they were last seen together. A wall clock that has jumped
-- shows as a difference, by which leases are moved. The machine's clock begins anew with each boot.
CREATE TABLE clock (
  one    INTEGER PRIMARY KEY CHECK (one = 1),
  wall   INTEGER NOT NULL,
  uptime INTEGER NOT NULL,
  boot   TEXT    NOT NULL
) STRICT;
