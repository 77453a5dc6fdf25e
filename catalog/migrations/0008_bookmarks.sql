-- How far jobs have read tables: up to which version.
CREATE TABLE bookmarks (
    table_id INTEGER NOT NULL REFERENCES tables (id) ON DELETE CASCADE,
    job      TEXT NOT NULL,
    version  INTEGER NOT NULL,
    moved_ms INTEGER NOT NULL,
    PRIMARY KEY (table_id, job)
) WITHOUT ROWID;
