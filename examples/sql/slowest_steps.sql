-- Which steps take the most agent time?
SELECT pipeline, step, count(*) AS jobs, sum(duration_s) / 60 AS minutes,
    quantile_cont(duration_s, 0.5) AS p50_s, quantile_cont(duration_s, 0.95) AS p95_s
FROM jobs
WHERE day >= current_date - 30 AND type = 'script' AND started
GROUP BY pipeline, step
ORDER BY minutes DESC
LIMIT 20;
