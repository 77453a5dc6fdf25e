-- q01: all rows
SELECT count(*) FROM hits
-- q02: rows with a rare flag
SELECT count(*) FROM hits WHERE adv_engine_id <> 0
-- q03: three totals
SELECT sum(adv_engine_id), count(*), avg(resolution_width) FROM hits
-- q04: an average of large numbers
SELECT avg(CAST(user_id AS DOUBLE)) FROM hits
-- q05: distinct numbers
SELECT count(DISTINCT user_id) FROM hits
-- q06: distinct texts
SELECT count(DISTINCT search_phrase) FROM hits
-- q07: smallest and largest day
SELECT min(event_date), max(event_date) FROM hits
-- q08: a filtered grouping
SELECT adv_engine_id, count(*) AS views FROM hits WHERE adv_engine_id <> 0 GROUP BY adv_engine_id ORDER BY views DESC, adv_engine_id
-- q09: distinct users by region
SELECT region_id, count(DISTINCT user_id) AS users FROM hits GROUP BY region_id ORDER BY users DESC, region_id LIMIT 10
-- q10: several aggregates by region
SELECT region_id, sum(adv_engine_id) AS adverts, count(*) AS views, avg(resolution_width) AS width, count(DISTINCT user_id) AS users
FROM hits GROUP BY region_id ORDER BY views DESC, region_id LIMIT 10
-- q11: distinct users by a text
SELECT mobile_phone_model, count(DISTINCT user_id) AS users FROM hits WHERE mobile_phone_model <> ''
GROUP BY mobile_phone_model ORDER BY users DESC, mobile_phone_model LIMIT 10
-- q12: frequent phrases
SELECT search_phrase, count(*) AS views FROM hits WHERE search_phrase <> '' GROUP BY search_phrase ORDER BY views DESC, search_phrase LIMIT 10
-- q13: phrases with most users
SELECT search_phrase, count(DISTINCT user_id) AS users FROM hits WHERE search_phrase <> ''
GROUP BY search_phrase ORDER BY users DESC, search_phrase LIMIT 10
-- q14: a number and a text
SELECT search_engine_id, search_phrase, count(*) AS views FROM hits WHERE search_phrase <> ''
GROUP BY search_engine_id, search_phrase ORDER BY views DESC, search_engine_id, search_phrase LIMIT 10
-- q15: busiest users
SELECT user_id, count(*) AS views FROM hits GROUP BY user_id ORDER BY views DESC, user_id LIMIT 10
-- q16: users and what they looked for
SELECT user_id, search_phrase, count(*) AS views FROM hits GROUP BY user_id, search_phrase ORDER BY views DESC, user_id, search_phrase LIMIT 10
-- q17: by minute, too
SELECT user_id, extract(minute FROM event_time) AS minute, search_phrase, count(*) AS views FROM hits
GROUP BY user_id, extract(minute FROM event_time), search_phrase ORDER BY views DESC, user_id, minute, search_phrase LIMIT 10
-- q18: rows of one user
SELECT count(*), min(event_time), max(event_time) FROM hits WHERE user_id = (SELECT max(user_id) FROM hits)
-- q19: a word anywhere in an address
SELECT count(*) FROM hits WHERE url LIKE '%museum%'
-- q20: phrases on pages about something
SELECT search_phrase, min(url) AS url, count(*) AS views FROM hits WHERE url LIKE '%museum%' AND search_phrase <> ''
GROUP BY search_phrase ORDER BY views DESC, search_phrase LIMIT 10
-- q21: whole rows, a few of them
SELECT * FROM hits WHERE url LIKE '%garden/museum%' ORDER BY event_time, watch_id LIMIT 10
-- q22: lengths of texts by site
SELECT counter_id, avg(length(url)) AS length, count(*) AS views FROM hits WHERE url <> ''
GROUP BY counter_id HAVING count(*) > 10000 ORDER BY length DESC, counter_id LIMIT 25
-- q23: many sums of one column
SELECT sum(resolution_width), sum(resolution_width + 1), sum(resolution_width + 2), sum(resolution_width + 3), sum(resolution_width + 4),
       sum(resolution_width + 5), sum(resolution_width + 6), sum(resolution_width + 7), sum(resolution_width + 8), sum(resolution_width + 9) FROM hits
-- q24: nearly unique groups
SELECT watch_id, client_ip, count(*) AS views, sum(is_refresh) AS refreshes, avg(resolution_width) AS width FROM hits
GROUP BY watch_id, client_ip ORDER BY views DESC, watch_id LIMIT 10
-- q25: most read addresses
SELECT url, count(*) AS views FROM hits GROUP BY url ORDER BY views DESC, url LIMIT 10
-- q26: expressions of one key
SELECT client_ip, client_ip - 1 AS a, client_ip - 2 AS b, client_ip - 3 AS c, count(*) AS views FROM hits
GROUP BY client_ip, client_ip - 1, client_ip - 2, client_ip - 3 ORDER BY views DESC, client_ip LIMIT 10
-- q27: pages of one site in a month
SELECT url, count(*) AS views FROM hits WHERE counter_id = 62 AND event_date BETWEEN DATE '2013-07-01' AND DATE '2013-07-31'
  AND dont_count_hits = 0 AND is_refresh = 0 GROUP BY url ORDER BY views DESC, url LIMIT 10
-- q28: where readers of a site come from
SELECT traffic_source_id, search_engine_id, adv_engine_id, CASE WHEN search_engine_id = 0 AND adv_engine_id = 0 THEN referer ELSE '' END AS origin,
       url AS target, count(*) AS views
FROM hits WHERE counter_id = 5 AND event_date BETWEEN DATE '2013-07-01' AND DATE '2013-07-31' AND is_refresh = 0
GROUP BY traffic_source_id, search_engine_id, adv_engine_id, CASE WHEN search_engine_id = 0 AND adv_engine_id = 0 THEN referer ELSE '' END, url
ORDER BY views DESC, traffic_source_id, search_engine_id, adv_engine_id, origin, target LIMIT 10 OFFSET 100
-- q29: views by minute of two days
SELECT date_trunc('minute', event_time) AS minute, count(*) AS views FROM hits WHERE counter_id = 0
  AND event_date BETWEEN DATE '2013-07-14' AND DATE '2013-07-15' AND is_refresh = 0 AND dont_count_hits = 0
GROUP BY date_trunc('minute', event_time) ORDER BY minute LIMIT 10 OFFSET 1000
