-- Where inside of jobs does the time go? Sections of logs, by the time that they take in all.
SELECT pipeline, step, phase, name, count(*) AS times, sum(duration_s) / 60 AS minutes,
    quantile_cont(duration_s, 0.5) AS p50_s, quantile_cont(duration_s, 0.95) AS p95_s
FROM sections
WHERE day >= current_date - 30
GROUP BY pipeline, step, phase, name
ORDER BY minutes DESC
LIMIT 20;
