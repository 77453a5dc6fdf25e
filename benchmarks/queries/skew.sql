-- group-even: a grouping by even keys
SELECT even, count(*) AS n, sum(amount) AS amount FROM facts GROUP BY even ORDER BY n DESC, even LIMIT 100
-- group-zipf: a grouping by skewed keys
SELECT zipf, count(*) AS n, sum(amount) AS amount FROM facts GROUP BY zipf ORDER BY n DESC, zipf LIMIT 100
-- distinct-even: distinct members by even keys
SELECT even, count(DISTINCT member) AS members FROM facts GROUP BY even ORDER BY members DESC, even LIMIT 100
-- distinct-zipf: distinct members by skewed keys
SELECT zipf, count(DISTINCT member) AS members FROM facts GROUP BY zipf ORDER BY members DESC, zipf LIMIT 100
-- wide-even: a text per group, by even keys
SELECT even, tag, min(amount) AS least, max(amount) AS most FROM facts GROUP BY even, tag ORDER BY even, tag LIMIT 100
-- wide-zipf: a text per group, by skewed keys
SELECT zipf, tag, min(amount) AS least, max(amount) AS most FROM facts GROUP BY zipf, tag ORDER BY zipf, tag LIMIT 100
-- join-even: a join by even keys
SELECT category, count(*) AS n, sum(amount) AS amount, min(label) AS label FROM facts JOIN items ON even = item GROUP BY category
-- join-zipf: a join by skewed keys
SELECT category, count(*) AS n, sum(amount) AS amount, min(label) AS label FROM facts JOIN items ON zipf = item GROUP BY category
-- many-even: a join in which both sides repeat even keys
SELECT tag, count(*) AS n, sum(amount * weight) AS weighted FROM facts JOIN visits ON facts.even = visits.even GROUP BY tag
-- many-zipf: a join in which both sides repeat skewed keys
SELECT tag, count(*) AS n, sum(amount * weight) AS weighted FROM facts JOIN visits ON facts.zipf = visits.zipf GROUP BY tag
-- window-even: the largest of each of the even keys
SELECT count(*) AS n, sum(amount) AS amount FROM (SELECT amount, row_number() OVER (PARTITION BY even ORDER BY amount DESC, member, tag) AS place FROM facts) AS placed WHERE place <= 3
-- window-zipf: the largest of each of the skewed keys
SELECT count(*) AS n, sum(amount) AS amount FROM (SELECT amount, row_number() OVER (PARTITION BY zipf ORDER BY amount DESC, member, tag) AS place FROM facts) AS placed WHERE place <= 3
