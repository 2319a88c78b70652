-- Which jobs does a replay of the queues repeat, and when were they ready, started and ended?
-- Times are Unix nanoseconds. What a concurrency limit kept waiting was not ready yet.
SELECT build_id, job_id, retries_job_id, retried_in_job_id, triggered_build_id, type, coalesce(cluster_id, '') AS cluster_id, cluster,
    CASE WHEN type = 'script' THEN coalesce(queue, 'default') END AS queue,
    agent, coalesce(priority, 0) AS priority, started,
    runnable_at IS NOT NULL AS wait_known,
    least(start_ns, coalesce(epoch_ns(runnable_at), start_ns)
        + CASE WHEN concurrency_wait_s > 0 AND started
            THEN (concurrency_wait_s * 1e9)::BIGINT ELSE 0 END) AS ready_ns,
    start_ns, end_ns
FROM jobs
WHERE day BETWEEN $since::DATE AND $until::DATE
    AND (started OR runnable_at IS NOT NULL OR type = 'manual')
