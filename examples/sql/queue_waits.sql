-- Where do jobs wait for agents, and at which hour (UTC)?
SELECT queue, hour(runnable_at) AS hour, count(*) AS jobs,
    quantile_cont(queue_s, 0.5) AS p50_s, quantile_cont(queue_s, 0.95) AS p95_s
FROM jobs
WHERE day >= current_date - 7 AND queue_s IS NOT NULL
GROUP BY queue, hour
ORDER BY p95_s DESC;
