-- g01: few groups by a text
SELECT id1, sum(v1) AS v1 FROM g GROUP BY id1
-- g02: two texts
SELECT id1, id2, sum(v1) AS v1 FROM g GROUP BY id1, id2
-- g03: many groups by a text
SELECT id3, sum(v1) AS v1, avg(v3) AS v3 FROM g GROUP BY id3
-- g04: few groups by a number
SELECT id4, avg(v1) AS v1, avg(v2) AS v2, avg(v3) AS v3 FROM g GROUP BY id4
-- g05: many groups by a number
SELECT id6, sum(v1) AS v1, sum(v2) AS v2, sum(v3) AS v3 FROM g GROUP BY id6
-- g06: a median, which needs all values
SELECT id4, id5, median(v3) AS median_v3, stddev(v3) AS stddev_v3 FROM g GROUP BY id4, id5
-- g07: a range
SELECT id3, max(v1) - min(v2) AS range_v1_v2 FROM g GROUP BY id3
-- g08: the largest two of each group
SELECT id6, v3 FROM (SELECT id6, v3, row_number() OVER (PARTITION BY id6 ORDER BY v3 DESC) AS place FROM g) AS placed WHERE place <= 2
-- g09: a correlation
SELECT id2, id4, power(corr(v1, v2), 2) AS r2 FROM g GROUP BY id2, id4
-- g10: about as many groups as rows
SELECT id1, id2, id3, id4, id5, id6, sum(v3) AS v3, count(*) AS n FROM g GROUP BY id1, id2, id3, id4, id5, id6
-- j01: a tiny table
SELECT j.id1, j.id2, j.id3, j.id4 AS left_id4, small.id4 AS right_id4, j.id5, j.id6, j.v1, small.v2 FROM j JOIN small ON j.id1 = small.id1
-- j02: a middle one
SELECT j.id1 AS left_id1, medium.id1 AS right_id1, j.id2, j.id3, j.id4 AS left_id4, medium.id4 AS right_id4, j.id5 AS left_id5, medium.id5 AS right_id5, j.id6, j.v1, medium.v2
FROM j JOIN medium ON j.id2 = medium.id2
-- j03: all rows of the left side
SELECT j.id1 AS left_id1, medium.id1 AS right_id1, j.id2, j.id3, j.id4 AS left_id4, medium.id4 AS right_id4, j.id5 AS left_id5, medium.id5 AS right_id5, j.id6, j.v1, medium.v2
FROM j LEFT JOIN medium ON j.id2 = medium.id2
-- j04: by a text
SELECT j.id1 AS left_id1, medium.id1 AS right_id1, j.id2 AS left_id2, medium.id2 AS right_id2, j.id3, j.id4 AS left_id4, medium.id4 AS right_id4, j.id5, j.id6, j.v1, medium.v2
FROM j JOIN medium ON j.id5 = medium.id5
-- j05: as large a table
SELECT j.id1 AS left_id1, big.id1 AS right_id1, j.id2 AS left_id2, big.id2 AS right_id2, j.id3, j.id4 AS left_id4, big.id4 AS right_id4, j.id5 AS left_id5, big.id5 AS right_id5, j.id6 AS left_id6, big.id6 AS right_id6, j.v1, big.v2
FROM j JOIN big ON j.id3 = big.id3
