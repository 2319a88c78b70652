-- What `bk-pipeline changes` looks for changes in: a row for each build, and for each step of it.
-- Parameters: $since and $until, the first and the last day; $pipeline, a glob.
WITH chosen AS (
    SELECT day, build_id, pipeline, created_at, number, branch, nullif("commit", 'HEAD') AS "commit",
        url, run_s, queue_s, cost, state,
        -- Failed and canceled builds end early, and blocked ones have not ended.
        state = 'passed' AND NOT blocked AS passed
    FROM builds
    WHERE day BETWEEN $since::DATE AND $until::DATE AND pipeline GLOB $pipeline
        AND created_at IS NOT NULL AND number IS NOT NULL
),
whole AS (
    SELECT day, build_id, NULL::VARCHAR AS step,
        CASE WHEN passed THEN run_s END AS duration_s, queue_s,
        CASE state WHEN 'failed' THEN 1 WHEN 'passed' THEN 0 END AS failed,
        CASE WHEN passed THEN cost END AS cost
    FROM chosen
),
by_step AS (
    SELECT day, build_id, step,
        -- Of parallel jobs, the median. An attempt that failed and was retried has not passed.
        median(duration_s) FILTER (passed) AS duration_s,
        median(queue_s) FILTER (started) AS queue_s,
        CASE WHEN bool_or(status = 'error' AND NOT retried) THEN 1 WHEN bool_or(passed) THEN 0 END
            AS failed,
        -- With the attempts that failed.
        CASE WHEN bool_or(passed) THEN sum(cost) END AS cost
    FROM jobs
    WHERE day BETWEEN $since::DATE AND $until::DATE AND pipeline GLOB $pipeline
        AND type = 'script' AND step <> ''
    GROUP BY day, build_id, step
)
SELECT pipeline, step, created_at, number, branch, "commit", build_id, url,
    observed.duration_s, observed.queue_s, observed.failed::DOUBLE AS failed, observed.cost
FROM (FROM whole UNION ALL FROM by_step) AS observed JOIN chosen USING (day, build_id)
ORDER BY pipeline, step NULLS FIRST, created_at, number;
