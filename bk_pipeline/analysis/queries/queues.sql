-- Where do jobs wait for agents, when, and are there too few agents?
-- A row per queue, and per slot of time: $by is 'hour', 'hour_of_day' (in the time zone $zone) or
-- 'queue' (no slots). Only hours of the day from $from_hour until $to_hour count; 0 and 24 are all.
-- Averages are over the hours in which a job of the queue waited or ran.
WITH jobs_of_queues AS (
    -- Times in microseconds. What a concurrency limit kept waiting did not wait for an agent yet.
    SELECT coalesce(cluster_id, '') AS cluster_id, coalesce(queue, 'default') AS queue,
        cluster, agent, started, start_ns // 1000 AS start_us, end_ns // 1000 AS end_us,
        CASE WHEN runnable_at IS NOT NULL OR NOT started THEN least(start_ns // 1000,
            coalesce(epoch_us(runnable_at), start_ns // 1000)
            + CASE WHEN concurrency_wait_s > 0 AND started
                THEN (concurrency_wait_s * 1e6)::BIGINT ELSE 0 END)
        END AS ready_us
    FROM jobs
    WHERE day BETWEEN $since::DATE AND $until::DATE AND type = 'script'
        AND (started OR runnable_at IS NOT NULL)
),
periods AS (
    SELECT cluster_id, queue, 'waiting' AS what, ready_us AS from_us,
        CASE WHEN started THEN start_us ELSE end_us END AS to_us
    FROM jobs_of_queues WHERE ready_us IS NOT NULL
    UNION ALL
    SELECT cluster_id, queue, 'running', start_us, end_us FROM jobs_of_queues WHERE started
),
-- An agent is there from the first to the last of its jobs. Agents that mostly run one job only
-- (as in Kubernetes) tell nothing about how many there could have been.
agents AS (
    SELECT cluster_id, queue, min(start_us) AS from_us, max(end_us) AS to_us
    FROM jobs_of_queues
    WHERE started AND agent IS NOT NULL
    GROUP BY cluster_id, queue, agent
),
recurring AS (
    SELECT cluster_id, queue FROM jobs_of_queues WHERE started
    GROUP BY cluster_id, queue
    HAVING count(DISTINCT agent) > 0
        AND count(*) >= 2 * (count(DISTINCT agent) + count(*) FILTER (agent IS NULL))
),
spread AS (
    SELECT *, unnest(range(from_us // 3600000000, to_us // 3600000000 + 1)) AS hour_number
    FROM (
        SELECT * FROM periods
        UNION ALL
        SELECT cluster_id, queue, 'agents', from_us, to_us FROM agents SEMI JOIN recurring
            USING (cluster_id, queue)
    )
),
totals AS (
    SELECT cluster_id, queue, hour_number,
        sum(overlap_s) FILTER (what = 'waiting') AS waiting_s,
        sum(overlap_s) FILTER (what = 'running') AS running_s,
        sum(overlap_s) FILTER (what = 'agents') AS agents_s
    FROM (
        SELECT *, (least(to_us, (hour_number + 1) * 3600000000)
            - greatest(from_us, hour_number * 3600000000)) / 1e6 AS overlap_s
        FROM spread
    )
    GROUP BY cluster_id, queue, hour_number
    HAVING bool_or(what <> 'agents')
),
-- How many waited and ran at each moment. The beginning of each hour is such a moment too.
levels AS (
    SELECT cluster_id, queue, at_us // 3600000000 AS hour_number,
        sum(waits) OVER so_far AS waiting, sum(runs) OVER so_far AS running
    FROM (
        SELECT cluster_id, queue, from_us AS at_us, 1 AS change,
            (what = 'waiting')::INT AS waits, (what = 'running')::INT AS runs FROM periods
        UNION ALL
        SELECT cluster_id, queue, to_us, -1, -(what = 'waiting')::INT, -(what = 'running')::INT
        FROM periods
        UNION ALL
        SELECT cluster_id, queue, hour_number * 3600000000, 0, 0, 0 FROM totals
    )
    WINDOW so_far AS (PARTITION BY cluster_id, queue ORDER BY at_us, change
        ROWS UNBOUNDED PRECEDING)
),
peaks AS (
    SELECT cluster_id, queue, hour_number, max(waiting) AS waiting_max, max(running) AS running_max
    FROM levels GROUP BY cluster_id, queue, hour_number
),
arrivals AS (
    SELECT cluster_id, queue, ready_us // 3600000000 AS hour_number, count(*) AS arrivals,
        list((start_us - ready_us) / 1e6) FILTER (started) AS waits
    FROM jobs_of_queues WHERE ready_us IS NOT NULL
    GROUP BY cluster_id, queue, hour_number
),
hours AS (
    SELECT hour_number, local_time, CASE $by
        WHEN 'hour' THEN strftime(local_time, '%Y-%m-%d %H:%M')
        WHEN 'hour_of_day' THEN strftime(local_time, '%H:00')
        END AS slot
    FROM (
        SELECT DISTINCT hour_number,
            timezone($zone, make_timestamptz(hour_number * 3600000000)) AS local_time
        FROM totals
    )
    WHERE CASE WHEN $from_hour::INT < $to_hour::INT
        THEN hour(local_time) >= $from_hour::INT AND hour(local_time) < $to_hour::INT
        ELSE hour(local_time) >= $from_hour::INT OR hour(local_time) < $to_hour::INT END
),
names AS (SELECT cluster_id, any_value(cluster) AS cluster FROM jobs_of_queues GROUP BY cluster_id)
SELECT nullif(cluster_id, '') AS cluster_id, any_value(names.cluster) AS cluster, queue, slot,
    count(*) AS hours, coalesce(sum(arrivals), 0)::BIGINT AS arrivals,
    coalesce(avg(waiting_s), 0) / 3600 AS waiting, max(waiting_max)::BIGINT AS waiting_max,
    coalesce(sum(running_s), 0) / 3600 / count(*) AS running,
    max(running_max)::BIGINT AS running_max,
    list_aggregate(flatten(list(waits)), 'quantile_cont', 0.5) AS wait_p50_s,
    list_aggregate(flatten(list(waits)), 'quantile_cont', 0.95) AS wait_p95_s,
    coalesce(list_sum(flatten(list(waits))), 0) AS waited_s,
    sum(agents_s) / 3600 / count(*) AS agents,
    sum(running_s) / sum(agents_s) AS utilization
FROM totals
JOIN hours USING (hour_number)
JOIN names USING (cluster_id)
LEFT JOIN peaks USING (cluster_id, queue, hour_number)
LEFT JOIN arrivals USING (cluster_id, queue, hour_number)
GROUP BY cluster_id, queue, slot
ORDER BY waited_s DESC, cluster_id, queue, slot
