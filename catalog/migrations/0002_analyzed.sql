-- What ANALYZE found in partitions; goes when the files of a partition change. statistics is DataFusion's protobuf message, sketches is ours.
CREATE TABLE analyzed_partitions (
    partition_id INTEGER NOT NULL PRIMARY KEY REFERENCES partitions (id) ON DELETE CASCADE,
    statistics   BLOB NOT NULL,
    sketches     BLOB NOT NULL
);
