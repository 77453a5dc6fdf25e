-- sum-by-ad: the nightly job
SELECT ad_id, sum(impressions) AS impressions FROM impressions GROUP BY ad_id
-- ads-of-a-day: one partition
SELECT ad_id, sum(impressions) AS impressions FROM impressions WHERE event_date = DATE '2026-06-17' GROUP BY ad_id
-- count-of-hours: a time range inside a partition
SELECT ad_id, count(impressions) AS impression_count FROM impressions
WHERE event_date >= DATE '2026-06-29' AND event_time > TIMESTAMP '2026-06-30 12:00:00' - INTERVAL '1' DAY GROUP BY ad_id
-- five-columns: a few of a hundred columns
SELECT dim_17, count(*) AS n, sum(bid) AS bid, min(dim_42) AS least, max(dim_88) AS most FROM impressions GROUP BY dim_17
-- click-through: rates by campaign and day
SELECT c.campaign, i.event_date, i.impressions, coalesce(k.clicks, 0) AS clicks, coalesce(k.clicks, 0) * 1.0 / i.impressions AS rate
FROM (SELECT campaign_id, event_date, sum(impressions) AS impressions FROM impressions GROUP BY campaign_id, event_date) AS i
LEFT JOIN (SELECT campaign_id, event_date, count(*) AS clicks FROM clicks GROUP BY campaign_id, event_date) AS k
  ON i.campaign_id = k.campaign_id AND i.event_date = k.event_date
JOIN campaigns AS c ON c.campaign_id = i.campaign_id
-- attribution: each click to the latest impression of its user and campaign within half an hour
SELECT campaign_id, count(*) AS clicks, sum(price) AS price, avg(bid) AS bid FROM (
  SELECT k.click_id, k.campaign_id, k.price, i.bid, row_number() OVER (PARTITION BY k.click_id ORDER BY i.event_time DESC, i.auction_id) AS place
  FROM clicks AS k JOIN impressions AS i ON i.user_id = k.user_id AND i.campaign_id = k.campaign_id
   AND i.event_time <= k.event_time AND i.event_time >= k.event_time - INTERVAL '30' MINUTE
) AS placed WHERE place = 1 GROUP BY campaign_id
-- advertisers: the dimension decides
SELECT c.advertiser, count(*) AS n, sum(i.impressions) AS impressions, sum(i.bid) AS bid
FROM impressions AS i JOIN campaigns AS c ON c.campaign_id = i.campaign_id WHERE c.budget > 9500 GROUP BY c.advertiser
-- flights-of-a-year: one folder of 22
SELECT dest, origin, count(*) AS flights FROM flights WHERE year = 1991 GROUP BY dest, origin
-- years-of-a-carrier: every folder
SELECT year, count(*) AS flights, avg(arrival_delay) AS delay, sum(cancelled) AS cancelled FROM flights WHERE carrier = 'HA' GROUP BY year ORDER BY year
-- worst-routes: the last years
SELECT origin, dest, carrier, avg(arrival_delay) AS delay, count(*) AS flights FROM flights
WHERE year BETWEEN 2005 AND 2008 AND cancelled = 0 GROUP BY origin, dest, carrier HAVING count(*) > 100
ORDER BY delay DESC, origin, dest, carrier LIMIT 20
