-- Social pins: three topics land as JSON, are cleaned into tables, and asked in Spark's SQL.

SET windlass.dialect = 'spark';

CREATE DATABASE pins;

USE pins;

-- What lands: topics/{pin,geo,user}/partition=N/*.json.
COPY (
    SELECT * FROM VALUES
        (1, 'one', 'Art', '10k', 'A picture', 'local save'), (2, 'two', 'Art', '2M', 'No description available', 'local save'),
        (3, 'three', 'Cars', '450', '', 'local save'), (4, 'four', 'Art', 'User Info Error', 'A sculpture', 'local save'),
        (5, 'five', 'Cars', '3k', 'A race', 'local save'), (5, 'five', 'Cars', '3k', 'A race', 'local save')
    AS t (`index`, unique_id, category, follower_count, description, save_location)
) TO '{data}/topics/pin/partition=0' STORED AS JSON;

COPY (
    SELECT * FROM VALUES
        (1, 51.5, -0.1, '2019-04-05T10:00:00', 'Albania'), (2, 48.9, 2.4, '2020-06-01T00:00:00', 'France'),
        (3, 52.5, 13.4, '2020-07-01T12:30:00', 'Germany'), (4, 40.4, -3.7, '2019-09-09T09:09:09', 'Spain'),
        (5, 41.9, 12.5, '2020-01-01T01:00:00', 'Italy')
    AS t (ind, latitude, longitude, `timestamp`, country)
) TO '{data}/topics/geo/partition=0' STORED AS JSON;

COPY (
    SELECT * FROM VALUES
        (1, 'Ada', 'Byron', 20, '2015-10-21T08:27:36'), (2, 'Bob', 'Ross', 30, '2016-02-02T00:00:00'),
        (3, 'Cyd', 'Charisse', 40, '2017-03-03T00:00:00'), (4, 'Dan', 'Dare', 22, '2015-04-04T00:00:00'),
        (5, 'Eve', 'Arden', 60, '2016-05-05T00:00:00'), (5, 'Eve', 'Arden', 60, '2016-05-05T00:00:00')
    AS t (ind, first_name, last_name, age, date_joined)
) TO '{data}/topics/user/partition=0' STORED AS JSON;

-- Raw tables keep them as they are.
CREATE EXTERNAL TABLE raw_pin (`index` INT, unique_id STRING, category STRING, follower_count STRING, description STRING, save_location STRING)
PARTITIONED BY (`partition` INT) STORED AS JSONFILE LOCATION '{data}/topics/pin';

CREATE EXTERNAL TABLE raw_geo (ind INT, latitude DOUBLE, longitude DOUBLE, `timestamp` STRING, country STRING)
PARTITIONED BY (`partition` INT) STORED AS JSONFILE LOCATION '{data}/topics/geo';

CREATE EXTERNAL TABLE raw_user (ind INT, first_name STRING, last_name STRING, age INT, date_joined STRING)
PARTITIONED BY (`partition` INT) STORED AS JSONFILE LOCATION '{data}/topics/user';

MSCK REPAIR TABLE raw_pin;

MSCK REPAIR TABLE raw_geo;

MSCK REPAIR TABLE raw_user;

-- Cleaned tables.
CREATE TABLE pin AS
SELECT DISTINCT `index` AS ind, unique_id, category,
    CASE
        WHEN follower_count RLIKE '^\\d+k$' THEN int(regexp_extract(follower_count, '^(\\d+)')) * 1000
        WHEN follower_count RLIKE '^\\d+M$' THEN int(regexp_extract(follower_count, '^(\\d+)')) * 1000000
        ELSE CAST(follower_count AS INT)
    END AS follower_count,
    nullif(nullif(description, ""), "No description available") AS description,
    replace(save_location, "local save", "/data") AS save_location
FROM raw_pin;

CREATE TABLE geo AS
SELECT ind, country, named_struct('latitude', latitude, 'longitude', longitude) AS coordinates, to_timestamp(`timestamp`) AS `timestamp`
FROM raw_geo;

CREATE TABLE user AS
SELECT DISTINCT ind, concat(first_name, " ", last_name) AS user_name, age, to_timestamp(date_joined) AS date_joined FROM raw_user;

SELECT ind, follower_count, description FROM pin ORDER BY ind;
--> 1 10000 A picture
--> 2 2000000 NULL
--> 3 450 NULL
--> 4 NULL A sculpture
--> 5 3000 A race

SELECT country, coordinates.latitude FROM geo WHERE coordinates.longitude < 0 ORDER BY country;
--> Albania 51.5
--> Spain 40.4

-- The most popular category of each year.
CREATE OR REPLACE TEMPORARY VIEW posts AS
SELECT year(g.`timestamp`) AS post_year, p.category, count(*) AS category_count
FROM pin p JOIN geo g ON p.ind = g.ind GROUP BY year(g.`timestamp`), p.category;

SELECT post_year, category, category_count FROM (
    SELECT *, RANK() OVER (PARTITION BY post_year ORDER BY category_count DESC) AS place FROM posts
) ranked WHERE place = 1 ORDER BY post_year;
--> 2019 Art 2
--> 2020 Cars 2

-- By age group.
CREATE OR REPLACE TEMPORARY VIEW people AS
SELECT u.*, p.category, p.follower_count,
    CASE WHEN age BETWEEN 18 AND 24 THEN "18-24" WHEN age BETWEEN 25 AND 35 THEN "25-35" WHEN age BETWEEN 36 AND 50 THEN "36-50" ELSE "50+" END AS age_group
FROM user u JOIN pin p ON u.ind = p.ind;

SELECT age_group, category, n FROM (
    SELECT age_group, category, count(*) AS n, ROW_NUMBER() OVER (PARTITION BY age_group ORDER BY count(*) DESC) AS place
    FROM people GROUP BY age_group, category
) ranked WHERE place = 1 ORDER BY age_group;
--> 18-24 Art 2
--> 25-35 Art 1
--> 36-50 Cars 1
--> 50+ Cars 1

-- The median number of followers by joining year, by windows and by the function.
SELECT joined, avg(follower_count) AS median_follower_count FROM (
    SELECT year(date_joined) AS joined, follower_count,
        ROW_NUMBER() OVER (PARTITION BY year(date_joined) ORDER BY follower_count) AS place,
        COUNT(*) OVER (PARTITION BY year(date_joined)) AS n
    FROM people WHERE follower_count IS NOT NULL
) numbered WHERE place IN ((n + 1) DIV 2, (n + 2) DIV 2) GROUP BY joined ORDER BY joined;
--> 2015 10000.0
--> 2016 1001500.0
--> 2017 450.0

SELECT year(date_joined) AS joined, median(CAST(follower_count AS DOUBLE)) FROM people GROUP BY year(date_joined) ORDER BY joined;
--> 2015 10000.0
--> 2016 1001500.0
--> 2017 450.0
