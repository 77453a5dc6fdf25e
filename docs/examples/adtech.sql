-- Ad-tech: impressions as JSON, clicks as CSV; validated, without duplicates, and each click matched with the impression that it followed.

CREATE DATABASE adtech;

USE adtech;

COPY (
    SELECT * FROM (VALUES
        (100, 'u1', '2024-05-01 10:00:00', 'news.example'), (100, 'u1', '2024-05-01 10:20:00', 'mail.example'),
        (100, 'u1', '2024-05-01 10:20:00', 'mail.example'), (200, 'u2', '2024-05-01 11:00:00', 'news.example'),
        (200, 'u3', '2024-05-01 11:05:00', 'news.example'), (300, 'u4', 'yesterday', 'news.example'),
        (NULL, 'u5', '2024-05-01 12:00:00', 'news.example'), (100, 'u6', '2024-05-02 09:00:00', 'mail.example')
    ) AS t (creative_id, user_id, shown_at, website)
) TO '{data}/raw/impressions' STORED AS JSON;

COPY (
    SELECT * FROM (VALUES
        ('2024-05-01 10:25:00', 'u1', 1, 'click'), ('2024-05-01 12:00:00', 'u2', 2, 'click'), ('2024-05-01 11:10:00', 'u3', 2, 'click'),
        ('2024-05-01 11:30:00', 'u3', 2, 'purchase'), ('2024-05-02 09:01:00', 'u6', 1, 'click')
    ) AS t (clicked_at, user_id, campaign_id, kind)
) TO '{data}/raw/clicks' STORED AS CSV;

CREATE EXTERNAL TABLE raw_impressions (creative_id BIGINT, user_id STRING, shown_at STRING, website STRING)
STORED AS JSONFILE LOCATION '{data}/raw/impressions';

CREATE EXTERNAL TABLE raw_clicks (clicked_at STRING, user_id STRING, campaign_id BIGINT, kind STRING)
ROW FORMAT DELIMITED FIELDS TERMINATED BY ',' STORED AS TEXTFILE LOCATION '{data}/raw/clicks'
TBLPROPERTIES ('skip.header.line.count' = '1');

CREATE TABLE campaigns AS SELECT * FROM (VALUES (100, 1, 'spring'), (200, 2, 'summer'), (300, 3, 'autumn')) AS t (creative_id, campaign_id, name);

-- Bad records go to a table of their own, with the reason.
CREATE TABLE rejected AS
SELECT *, CASE WHEN creative_id IS NULL THEN 'no creative' ELSE 'no time' END AS reason
FROM raw_impressions WHERE creative_id IS NULL OR try_cast(shown_at AS TIMESTAMP) IS NULL;

SELECT user_id, reason FROM rejected ORDER BY user_id;
--> u4 no time
--> u5 no creative

-- Good ones once each, with their campaigns.
CREATE TABLE impressions PARTITIONED BY (day, campaign_id) AS
SELECT DISTINCT i.creative_id, i.user_id, CAST(i.shown_at AS TIMESTAMP) AS shown_at, i.website, CAST(i.shown_at AS DATE) AS day, c.campaign_id
FROM raw_impressions i JOIN campaigns c ON i.creative_id = c.creative_id
WHERE try_cast(i.shown_at AS TIMESTAMP) IS NOT NULL;

SELECT day, campaign_id, count(*) FROM impressions GROUP BY day, campaign_id ORDER BY day, campaign_id;
--> 2024-05-01 1 2
--> 2024-05-01 2 2
--> 2024-05-02 1 1

-- Each click with the latest impression of its user and campaign in the half hour before it.
CREATE TABLE matched AS
SELECT k.user_id, k.campaign_id, k.kind, CAST(k.clicked_at AS TIMESTAMP) AS clicked_at, max(i.shown_at) AS shown_at, max_by(i.website, i.shown_at) AS website
FROM raw_clicks k JOIN impressions i ON k.user_id = i.user_id AND k.campaign_id = i.campaign_id
    AND i.shown_at <= CAST(k.clicked_at AS TIMESTAMP) AND i.shown_at > CAST(k.clicked_at AS TIMESTAMP) - INTERVAL '30' MINUTE
GROUP BY k.user_id, k.campaign_id, k.kind, k.clicked_at;

SELECT user_id, kind, website, date_diff('minute', shown_at, clicked_at) FROM matched ORDER BY user_id, kind;
--> u1 click mail.example 5
--> u3 click news.example 5
--> u3 purchase news.example 25
--> u6 click mail.example 1

-- Rates by campaign and day, as a view.
CREATE VIEW rates AS
SELECT c.name, i.day, count(*) AS impressions, count(m.user_id) AS clicks, count(m.user_id) / CAST(count(*) AS DOUBLE) AS rate
FROM impressions i
JOIN campaigns c ON i.campaign_id = c.campaign_id
LEFT JOIN matched m ON m.user_id = i.user_id AND m.campaign_id = i.campaign_id AND m.shown_at = i.shown_at AND m.kind = 'click'
GROUP BY c.name, i.day;

SELECT * FROM rates ORDER BY name, day;
--> spring 2024-05-01 2 1 0.5
--> spring 2024-05-02 1 1 1.0
--> summer 2024-05-01 2 1 0.5

-- Rules about the data, whose results are kept.
CREATE TABLE quality AS
SELECT 'impressions' AS topic, 'has a creative' AS rule, count(*) AS records, count_if(creative_id IS NULL) AS broken FROM raw_impressions
UNION ALL
SELECT 'clicks', 'kind is known', count(*), count_if(kind NOT IN ('click', 'purchase')) FROM raw_clicks;

SELECT * FROM quality ORDER BY topic;
--> clicks kind is known 5 0
--> impressions has a creative 8 1
