-- A row holds from version `added` on and before version `removed`; 0 if it still holds, because the NULLs of a unique index all differ.
-- What was there before versions were kept holds since ever: there is no version to go back to.
ALTER TABLE partitions ADD COLUMN added INTEGER NOT NULL DEFAULT 0;
ALTER TABLE partitions ADD COLUMN removed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE files ADD COLUMN added INTEGER NOT NULL DEFAULT 0;
ALTER TABLE files ADD COLUMN removed INTEGER NOT NULL DEFAULT 0;

-- With `removed` before what is searched for, what holds lies together however much has gone.
DROP INDEX partitions_by_name;
DROP INDEX partitions_by_keys;
DROP INDEX files_by_url;
CREATE UNIQUE INDEX partitions_by_name ON partitions (table_id, removed, name);
CREATE INDEX partitions_by_keys ON partitions (table_id, removed, k0, k1, k2, k3, k4, k5, k6, k7);
CREATE UNIQUE INDEX files_by_url ON files (partition_id, removed, url);
CREATE INDEX files_removed ON files (removed) WHERE removed > 0;

ANALYZE sqlite_schema;
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
    ('partitions', 'partitions_by_keys', '1000000 100000 100000 1000 30 2 1 1 1 1 1 noskipscan'),
    ('partitions', 'partitions_by_name', '1000000 100000 100000 1 noskipscan'),
    ('files', 'files_by_url', '1000000 4 4 1 noskipscan'),
    ('files', 'files_removed', '1000 100');
ANALYZE sqlite_schema;

-- What came and went in a change, and the counters of `tables` after it; a version without them cannot be read.
ALTER TABLE commits ADD COLUMN user TEXT NOT NULL DEFAULT '';
ALTER TABLE commits ADD COLUMN query_id TEXT;
ALTER TABLE commits ADD COLUMN files_added INTEGER;
ALTER TABLE commits ADD COLUMN bytes_added INTEGER;
ALTER TABLE commits ADD COLUMN rows_added INTEGER;
ALTER TABLE commits ADD COLUMN files_removed INTEGER;
ALTER TABLE commits ADD COLUMN bytes_removed INTEGER;
ALTER TABLE commits ADD COLUMN rows_removed INTEGER;
ALTER TABLE commits ADD COLUMN partition_count INTEGER;
ALTER TABLE commits ADD COLUMN file_count INTEGER;
ALTER TABLE commits ADD COLUMN byte_count INTEGER;
ALTER TABLE commits ADD COLUMN row_count INTEGER;
ALTER TABLE commits ADD COLUMN uncounted_files INTEGER;
UPDATE commits SET (partition_count, file_count, byte_count, row_count, uncounted_files) =
    (SELECT t.partition_count, t.file_count, t.byte_count, t.row_count, t.uncounted_files FROM tables AS t WHERE t.id = commits.table_id)
    WHERE version = (SELECT t.version FROM tables AS t WHERE t.id = commits.table_id);
CREATE INDEX commits_by_query ON commits (query_id) WHERE query_id IS NOT NULL;
CREATE INDEX commits_by_time ON commits (committed_ms);

-- Queries that were about to write. Those that were given up stay until their files are gone, so that they cannot be committed.
CREATE TABLE writes (
    query_id     TEXT NOT NULL PRIMARY KEY,
    location     TEXT NOT NULL,
    table_id     INTEGER,
    abandoned_ms INTEGER
) WITHOUT ROWID;

-- Files that went from a table and are ours to delete. The table may be gone.
CREATE TABLE garbage (
    url        TEXT NOT NULL PRIMARY KEY,
    table_id   INTEGER NOT NULL,
    removed_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX garbage_by_time ON garbage (removed_ms);
