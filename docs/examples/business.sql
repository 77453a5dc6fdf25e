-- Business metrics: shards with JSON columns, the newest row of each key, one wide view. And flights by year.

CREATE DATABASE metrics;

USE metrics;

-- What two shards give; a row may come again with a later time.
CREATE TABLE shards PARTITIONED BY (updated_on) AS
SELECT *, CAST(updated_at AS DATE) AS updated_on FROM (VALUES
    (1, 10, '{"plan": "free", "seats": 1}', TIMESTAMP '2024-01-01 08:00:00'),
    (1, 11, '{"plan": "team", "seats": 5, "tags": ["a", "b"]}', TIMESTAMP '2024-01-01 09:00:00'),
    (2, 10, '{"plan": "team", "seats": 7}', TIMESTAMP '2024-01-01 10:00:00'),
    (1, 10, '{"plan": "team", "seats": 3}', TIMESTAMP '2024-01-02 08:00:00')
) AS t (shard, account, attributes, updated_at);

CREATE VIEW accounts (shard, account, plan COMMENT 'what is paid for', seats, tags, updated_at) AS
SELECT shard, account, attributes ->> 'plan', json_get_int(attributes, 'seats'), coalesce(json_length(attributes, 'tags'), 0), updated_at
FROM (SELECT *, row_number() OVER (PARTITION BY shard, account ORDER BY updated_at DESC) AS place FROM shards) newest
WHERE place = 1;

SELECT shard, account, plan, seats, tags FROM accounts ORDER BY shard, account;
--> 1 10 team 3 0
--> 1 11 team 5 2
--> 2 10 team 7 0

-- The rest of the shards arrives.
INSERT INTO shards SELECT 3, 12, '{"plan": "free"}', TIMESTAMP '2024-01-03 00:00:00', DATE '2024-01-03';

SELECT plan, count(*), sum(seats) FROM accounts GROUP BY plan ORDER BY plan;
--> free 1 NULL
--> team 3 15

-- Flights lie in one directory per year; a query of one year reads one.
CREATE TABLE flights PARTITIONED BY (year) AS
SELECT 'A' || CAST(value % 3 AS VARCHAR) AS origin, 'B' || CAST(value % 2 AS VARCHAR) AS dest, 1987 + value AS year FROM generate_series(0, 21);

SELECT dest, origin FROM flights WHERE year = 1991;
--> B0 A1

SELECT count(*) FROM flights;
--> 22
