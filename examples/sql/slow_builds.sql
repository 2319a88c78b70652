-- Which builds took longest, and where are they? Look at one with `bk-pipeline trace URL`.
SELECT pipeline, number, branch, state, run_s, queue_s, creator, url
FROM builds
WHERE day >= current_date - 7
ORDER BY run_s DESC NULLS LAST
LIMIT 10;
