-- Advertising: impressions arrive in Parquet, a batch job adds them up, people ask for the last day.

CREATE DATABASE processed_data;

-- What arrives: 200 impressions, one every ten minutes, by day. A real one has a hundred more columns.
COPY (
    SELECT value % 3 + 1 AS ad_id, value AS impressions, date_add('minute', -10 * value, CAST(now() AS TIMESTAMP)) AS event_time,
        CAST(date_add('minute', -10 * value, CAST(now() AS TIMESTAMP)) AS DATE) AS event_date
    FROM generate_series(0, 199)
) TO '{data}/impressions' STORED AS PARQUET PARTITIONED BY (event_date);

CREATE EXTERNAL TABLE processed_data.impressions (ad_id BIGINT, impressions BIGINT, event_time TIMESTAMP)
PARTITIONED BY (event_date DATE) STORED AS PARQUET LOCATION '{data}/impressions';

MSCK REPAIR TABLE processed_data.impressions;

SELECT ad_id, SUM(impressions) FROM processed_data.impressions GROUP BY ad_id ORDER BY ad_id;
--> 1 6633
--> 2 6700
--> 3 6567

SELECT ad_id, COUNT(impressions) AS impression_count FROM hive.processed_data.impressions
WHERE event_time > NOW() - INTERVAL '1' DAY GROUP BY ad_id ORDER BY ad_id;
--> 1 48
--> 2 48
--> 3 48

-- The batch job: read, group, write to another place, and a table over it.
COPY (SELECT ad_id, SUM(impressions) AS total_impressions FROM processed_data.impressions GROUP BY ad_id)
TO '{data}/totals' STORED AS PARQUET;

CREATE EXTERNAL TABLE processed_data.totals STORED AS PARQUET LOCATION '{data}/totals';

SELECT * FROM awsdatacatalog.processed_data.totals WHERE total_impressions > 6600 ORDER BY ad_id;
--> 1 6633
--> 2 6700

-- The same as delimited text, as Hive has it.
COPY processed_data.totals TO '{data}/processed_data' STORED AS CSV;

CREATE EXTERNAL TABLE processed_data.processed_data (ad_id STRING, total_impressions BIGINT)
ROW FORMAT DELIMITED FIELDS TERMINATED BY ',' STORED AS TEXTFILE LOCATION '{data}/processed_data'
TBLPROPERTIES ('skip.header.line.count' = '1');

SELECT ad_id, total_impressions FROM processed_data.processed_data ORDER BY ad_id;
--> 1 6633
--> 2 6700
--> 3 6567

-- Jobs that run again read what came since: a table knows its versions.
CREATE TABLE processed_data.log AS SELECT ad_id, impressions FROM processed_data.impressions WHERE ad_id = 1;

INSERT INTO processed_data.log VALUES (9, 100), (9, 200);

SELECT ad_id, impressions FROM processed_data.log EXCEPT ALL SELECT ad_id, impressions FROM processed_data.log FOR VERSION AS OF 1
ORDER BY impressions;
--> 9 100
--> 9 200
