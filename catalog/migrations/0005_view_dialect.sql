-- In whose SQL a view's query is written.
ALTER TABLE views ADD COLUMN dialect TEXT NOT NULL DEFAULT 'generic';
