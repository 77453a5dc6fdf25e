-- When a materialized view was last refreshed, and whether its query gives the same rows as long as its tables hold the same.
CREATE TABLE refreshes (
    view_id      INTEGER NOT NULL PRIMARY KEY REFERENCES tables (id) ON DELETE CASCADE,
    refreshed_ms INTEGER NOT NULL,
    repeatable   INTEGER NOT NULL
);

-- What that refresh read. The tables may be gone or have other names.
CREATE TABLE refresh_bases (
    view_id  INTEGER NOT NULL REFERENCES refreshes (view_id) ON DELETE CASCADE,
    table_id INTEGER NOT NULL,
    name     TEXT NOT NULL,
    version  INTEGER NOT NULL,
    PRIMARY KEY (view_id, table_id)
) WITHOUT ROWID;
CREATE INDEX refresh_bases_by_table ON refresh_bases (table_id);
