-- How rows are kept in the files of a table: the format, and the properties of its reader.
ALTER TABLE tables ADD COLUMN storage_json TEXT NOT NULL DEFAULT '{"format":"parquet"}';
