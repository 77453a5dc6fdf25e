-- Finance: rates come as nested JSON and prices by ticker; both become Parquet.

CREATE DATABASE finance;

USE finance;

-- A document as an interface returns it: base, quote, day, values.
COPY (
    SELECT '{"USD": {"GBP": {"2010-01-01": {"rate": 0.62}, "2010-01-02": {"rate": 0.63}}, "EUR": {"2010-01-01": {"rate": 0.7}}}}' AS document
) TO '{data}/rates' STORED AS JSON;

CREATE EXTERNAL TABLE documents (document STRING) STORED AS JSONFILE LOCATION '{data}/rates';

CREATE TABLE rates AS
SELECT base, quote, CAST(day AS DATE) AS day, json_get_float(document -> base -> quote -> day, 'rate') AS rate
FROM documents
CROSS JOIN UNNEST(json_object_keys(document)) AS b (base)
CROSS JOIN UNNEST(json_object_keys(document -> base)) AS q (quote)
CROSS JOIN UNNEST(json_object_keys(document -> base -> quote)) AS d (day);

SELECT * FROM rates ORDER BY quote, day;
--> USD EUR 2010-01-01 0.7
--> USD GBP 2010-01-01 0.62
--> USD GBP 2010-01-02 0.63

-- Daily prices, by ticker.
CREATE TABLE prices PARTITIONED BY (ticker) AS
SELECT date_add(DATE '2024-01-01', CAST(n AS INT)) AS date, 100.0 + n AS open, 101.0 + n AS close, 1000 * n AS volume, ticker
FROM (SELECT value AS n FROM generate_series(0, 9)) AS days CROSS JOIN (VALUES ('AAA'), ('BBB')) AS t (ticker);

SELECT ticker, max(close), sum(volume), max_by(date, close) FROM prices WHERE ticker = 'BBB' GROUP BY ticker;
--> BBB 110.0 45000 2024-01-10

-- A moving average in dollars and pounds.
SELECT p.date, round(avg(close) OVER (ORDER BY p.date ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) * r.rate, 2) AS pounds
FROM prices p JOIN rates r ON r.quote = 'GBP' AND r.day = DATE '2010-01-02'
WHERE ticker = 'AAA' ORDER BY p.date LIMIT 3;
--> 2024-01-01 63.63
--> 2024-01-02 63.95
--> 2024-01-03 64.26
