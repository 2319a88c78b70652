-- Which steps break builds? Hard failures of attempts, and how many were retried.
SELECT pipeline, step, count(*) AS jobs,
    count(*) FILTER (status = 'error') AS failures,
    count(*) FILTER (retried) AS retries,
    avg((status = 'error')::INT) AS failure_rate
FROM jobs
WHERE day >= current_date - 30 AND type = 'script' AND started
GROUP BY pipeline, step
HAVING failures > 0
ORDER BY failures DESC, pipeline, step
LIMIT 20;
