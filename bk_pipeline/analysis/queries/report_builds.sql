-- How many builds were there, how did they end, and how long did they take and wait?
-- Rows for all builds and for each pipeline, of the period from $since to $until and of the one
-- from $before until then ($before_since); and for each slot of the period, $unit being 'day' or
-- 'hour' (since $origin_ns, in nanoseconds). `pipeline` and `slot` are null in rows over all.
-- With $qualified, pipelines have their organization's name before theirs.
WITH period AS (
    SELECT day < $since::DATE AS earlier,
        CASE WHEN $qualified::BOOLEAN THEN concat_ws('/', organization, pipeline)
            ELSE coalesce(pipeline, '(unknown)') END AS pipeline,
        coalesce(CASE WHEN day < $since::DATE THEN -1
            WHEN $unit = 'hour' THEN (start_ns - $origin_ns::BIGINT) // 3600000000000
            ELSE date_diff('day', $since::DATE, day) END, 0) AS slot,
        CASE WHEN blocked THEN 'blocked' ELSE coalesce(state, '(unknown)') END AS state,
        run_s, queue_s, critical_run_s, critical_wait_s, critical_blocked_s, cost, currency
    FROM builds WHERE day BETWEEN $before_since::DATE AND $until::DATE
)
SELECT earlier, pipeline, slot, count(*) AS builds,
    count(*) FILTER (state = 'passed') AS passed, count(*) FILTER (state = 'failed') AS failed,
    count(*) FILTER (state = 'canceled') AS canceled,
    count(*) FILTER (state = 'blocked') AS blocked,
    count(*) FILTER (state NOT IN ('passed', 'failed', 'canceled', 'blocked')) AS other,
    failed / nullif(passed + failed, 0) AS failure_rate,
    quantile_cont(run_s, 0.5) FILTER (state IN ('passed', 'failed')) AS duration_p50_s,
    quantile_cont(run_s, 0.9) FILTER (state IN ('passed', 'failed')) AS duration_p90_s,
    quantile_cont(run_s, 0.99) FILTER (state IN ('passed', 'failed')) AS duration_p99_s,
    quantile_cont(queue_s, 0.5) AS queue_p50_s, quantile_cont(queue_s, 0.9) AS queue_p90_s,
    quantile_cont(queue_s, 0.99) AS queue_p99_s,
    sum(critical_run_s) AS path_run_s, sum(critical_wait_s) AS path_wait_s,
    sum(critical_blocked_s) AS path_blocked_s, count(critical_run_s) AS paths,
    -- Amounts in several currencies have no sum.
    CASE WHEN count(DISTINCT currency) FILTER (cost IS NOT NULL) <= 1 THEN sum(cost) END AS cost,
    max(currency) AS currency
FROM period
GROUP BY GROUPING SETS ((earlier), (earlier, pipeline), (earlier, slot), (earlier, pipeline, slot))
HAVING NOT earlier OR GROUPING(slot) = 1
ORDER BY pipeline NULLS FIRST, slot NULLS FIRST, earlier
