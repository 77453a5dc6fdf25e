-- Ids of tables and partitions; taken, never given back.
CREATE TABLE sequence (next_id INTEGER NOT NULL);
INSERT INTO sequence (next_id) VALUES (1);

CREATE TABLE databases (
    name     TEXT NOT NULL PRIMARY KEY,
    location TEXT,
    comment  TEXT
);
INSERT INTO databases (name) VALUES ('default');

-- The counters are sums over the table's partitions, kept in the transaction that changes them.
CREATE TABLE tables (
    id              INTEGER NOT NULL PRIMARY KEY,
    database        TEXT NOT NULL REFERENCES databases (name),
    name            TEXT NOT NULL,
    kind            TEXT NOT NULL,
    location        TEXT NOT NULL,
    schema_ipc      BLOB NOT NULL,
    keys_json       TEXT NOT NULL,
    comment         TEXT,
    properties_json TEXT NOT NULL,
    version         INTEGER NOT NULL,
    created_ms      INTEGER NOT NULL,
    partition_count INTEGER NOT NULL DEFAULT 0,
    file_count      INTEGER NOT NULL DEFAULT 0,
    byte_count      INTEGER NOT NULL DEFAULT 0,
    row_count       INTEGER NOT NULL DEFAULT 0,
    uncounted_files INTEGER NOT NULL DEFAULT 0,
    UNIQUE (database, name)
);

CREATE TABLE views (
    table_id         INTEGER NOT NULL PRIMARY KEY REFERENCES tables (id) ON DELETE CASCADE,
    query            TEXT NOT NULL,
    default_database TEXT NOT NULL
);

-- One row per change of a table.
CREATE TABLE commits (
    table_id     INTEGER NOT NULL REFERENCES tables (id) ON DELETE CASCADE,
    version      INTEGER NOT NULL,
    committed_ms INTEGER NOT NULL,
    operation    TEXT NOT NULL,
    PRIMARY KEY (table_id, version)
) WITHOUT ROWID;

-- Key values by position. The columns have no type, so that SQLite compares what was stored and converts nothing:
-- INTEGER for int, bigint, date (days), timestamp (microseconds) and boolean; TEXT for string; 32 sortable hex digits for decimal.
CREATE TABLE partitions (
    id              INTEGER NOT NULL PRIMARY KEY,
    table_id        INTEGER NOT NULL REFERENCES tables (id) ON DELETE CASCADE,
    name            TEXT NOT NULL,
    location        TEXT NOT NULL,
    file_count      INTEGER NOT NULL,
    byte_count      INTEGER NOT NULL,
    row_count       INTEGER NOT NULL,
    uncounted_files INTEGER NOT NULL,
    k0, k1, k2, k3, k4, k5, k6, k7
);
CREATE UNIQUE INDEX partitions_by_name ON partitions (table_id, name);
CREATE INDEX partitions_by_keys ON partitions (table_id, k0, k1, k2, k3, k4, k5, k6, k7);

-- row_count is NULL when the footer was not read; statistics is DataFusion's protobuf message.
CREATE TABLE files (
    partition_id INTEGER NOT NULL REFERENCES partitions (id) ON DELETE CASCADE,
    url          TEXT NOT NULL,
    size         INTEGER NOT NULL,
    modified_ms  INTEGER NOT NULL,
    etag         TEXT,
    row_count    INTEGER,
    statistics   BLOB
);
CREATE UNIQUE INDEX files_by_url ON files (partition_id, url);

-- What ANALYZE would find in a large table. Fixed, because without it the planner takes every table for a small one and reads all of
-- it for an OR of key ranges, and because plans should not change with the data.
ANALYZE sqlite_schema;
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
    ('partitions', 'partitions_by_keys', '1000000 100000 1000 30 2 1 1 1 1 1 noskipscan'),
    ('partitions', 'partitions_by_name', '1000000 100000 1 noskipscan'),
    ('files', 'files_by_url', '1000000 4 1 noskipscan');
ANALYZE sqlite_schema;
