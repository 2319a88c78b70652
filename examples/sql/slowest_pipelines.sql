-- Which pipelines are slow, day by day?
-- The 95th percentile of how long builds were active, without pauses at block steps.
SELECT pipeline, day, count(*) AS builds, quantile_cont(run_s, 0.95) AS p95_s
FROM builds
WHERE day >= current_date - 30 AND state IN ('passed', 'failed')
GROUP BY pipeline, day
ORDER BY pipeline, day;
