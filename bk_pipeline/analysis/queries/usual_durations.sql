-- How long do the jobs of each step usually take?
-- One row per step with at least 20 jobs that passed: the length in seconds that 95 % of them kept to.
-- $since, $until: first and last day.
SELECT pipeline, step, quantile_cont(duration_s, 0.95) AS p95_s
FROM jobs
WHERE day BETWEEN CAST($since AS DATE) AND CAST($until AS DATE)
    AND type = 'script' AND started AND passed
GROUP BY pipeline, step
HAVING count(*) >= 20
ORDER BY pipeline, step;
