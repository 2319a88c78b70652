-- How long did jobs wait in each queue? A row per cluster and queue, the longest total wait first.
-- $since, $until: first and last day.
SELECT coalesce(any_value(cluster), cluster_id) AS cluster, coalesce(queue, 'default') AS queue,
    count(*) FILTER (started) AS jobs, count(*) FILTER (NOT started) AS never_started,
    quantile_cont(queue_s, 0.5) FILTER (started) AS wait_p50_s,
    quantile_cont(queue_s, 0.9) FILTER (started) AS wait_p90_s,
    quantile_cont(queue_s, 0.99) FILTER (started) AS wait_p99_s,
    max(queue_s) FILTER (started) AS wait_max_s,
    coalesce(sum(queue_s) FILTER (started), 0) / 60 AS waited_minutes,
    coalesce(sum(duration_s) FILTER (started), 0) / 60 AS agent_minutes,
    CASE WHEN count(DISTINCT currency) FILTER (cost IS NOT NULL) <= 1 THEN sum(cost) END AS cost
FROM jobs WHERE day BETWEEN $since::DATE AND $until::DATE AND type = 'script'
GROUP BY cluster_id, coalesce(queue, 'default')
ORDER BY waited_minutes DESC, cluster, queue
