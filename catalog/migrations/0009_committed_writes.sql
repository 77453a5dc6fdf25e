-- A write that is committed stays until it is known that tasks which ran twice have left no file behind.
ALTER TABLE writes ADD COLUMN committed_ms INTEGER;
