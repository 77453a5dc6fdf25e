-- The history of tables that are gone, until their last version would have expired. No key refers to them any more.
CREATE TABLE past_commits (
    table_id      INTEGER NOT NULL,
    version       INTEGER NOT NULL,
    database      TEXT NOT NULL,
    name          TEXT NOT NULL,
    committed_ms  INTEGER NOT NULL,
    operation     TEXT NOT NULL,
    user          TEXT NOT NULL,
    query_id      TEXT,
    files_added   INTEGER,
    bytes_added   INTEGER,
    rows_added    INTEGER,
    files_removed INTEGER,
    bytes_removed INTEGER,
    rows_removed  INTEGER,
    dropped_ms    INTEGER NOT NULL,
    PRIMARY KEY (table_id, version)
) WITHOUT ROWID;
CREATE INDEX past_commits_by_time ON past_commits (committed_ms);
CREATE INDEX past_commits_by_drop ON past_commits (dropped_ms);

-- What came to a partition since a version, without a look at all that is there.
CREATE INDEX files_by_version ON files (partition_id, added);
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES ('files', 'files_by_version', '1000000 4 2');
ANALYZE sqlite_schema;
