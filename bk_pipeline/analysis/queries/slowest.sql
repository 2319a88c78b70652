-- What is slow, and how much of it counts for the length of builds?
-- One row per command step of a pipeline; the one that takes the largest part of critical paths first.
-- $since, $until: first and last day; $pipeline: a glob, * for all.
SELECT pipeline, step, arg_max(label, end_ns) AS label, count(*) AS jobs,
    quantile_cont(duration_s, 0.5) AS p50_s, quantile_cont(duration_s, 0.95) AS p95_s,
    quantile_cont(queue_s, 0.95) AS queue_p95_s,
    sum(duration_s) / 3600 AS agent_hours,
    -- Waits for agents included.
    sum(critical_path_s) / 3600 AS critical_path_hours,
    avg(CAST(on_critical_path AS INT)) AS on_critical_path_rate,
    CASE WHEN count(DISTINCT currency) = 1 THEN sum(cost) END AS cost,
    CASE WHEN count(DISTINCT currency) = 1 THEN max(currency) END AS currency
FROM jobs
WHERE day BETWEEN CAST($since AS DATE) AND CAST($until AS DATE)
    AND coalesce(pipeline, '') GLOB $pipeline AND type = 'script' AND started
GROUP BY pipeline, step
ORDER BY critical_path_hours DESC NULLS LAST, agent_hours DESC NULLS LAST, pipeline, step;
