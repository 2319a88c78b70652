-- What got slower? The last 7 days of each step beside the 7 days before.
SELECT pipeline, step,
    median(duration_s) FILTER (day < current_date - 6) AS before_s,
    median(duration_s) FILTER (day >= current_date - 6) AS now_s,
    now_s / before_s - 1 AS change
FROM jobs
WHERE day >= current_date - 13 AND type = 'script' AND passed
GROUP BY pipeline, step
HAVING count(*) FILTER (day < current_date - 6) >= 10
    AND count(*) FILTER (day >= current_date - 6) >= 10
ORDER BY change DESC
LIMIT 20;
