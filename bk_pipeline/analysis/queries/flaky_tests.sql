-- Which tests are flaky: failed in attempts of jobs that passed later on the same commit?
-- The attempts are those that flaky.sql counts as flaky. Needs the test results of job details.
-- $since, $until: first and last day; $pipeline, $branch, $step: globs, * for all; $by: all.
WITH attempts AS (
    SELECT day, coalesce(pipeline, '(unknown)') AS pipeline, coalesce(nullif(step, ''), '(unknown)') AS step,
        coalesce(parallel_index, -1) AS parallel_index, coalesce(matrix, '') AS matrix,
        -- Builds without a known commit have none in common.
        CASE WHEN coalesce("commit", '') IN ('', 'HEAD') THEN trace_id ELSE "commit" END AS subject,
        trace_id, job_id, label, url, end_ns, duration_s, cost, currency, passed, type = 'script' AS command,
        coalesce(branch, '') GLOB $branch AS shown,
        started AND NOT passed AND coalesce(state, '') IN ('failed', 'timed_out', 'finished')
            -- An agent that was lost or stopped says nothing about the step.
            AND coalesce(error_type, '') <> 'agent_lost'
            AND (state = 'timed_out' OR coalesce(signal_reason, '') <> 'agent_stop'
                AND (coalesce(exit_status, 0) <> -1 OR signal_reason IS NOT NULL)) AS failed,
        CASE WHEN $by = 'all' THEN CAST($since AS DATE)
            ELSE CAST(date_trunc(CASE WHEN $by = 'all' THEN 'day' ELSE $by END, day) AS DATE)
        END AS period
    FROM jobs
    WHERE day BETWEEN CAST($since AS DATE) AND CAST($until AS DATE) AND type <> 'manual'
        AND coalesce(pipeline, '(unknown)') GLOB $pipeline
),
-- The first pass of the same job on the same commit, for jobs that ever failed.
followed AS (
    SELECT *, min(CASE WHEN passed THEN end_ns END) OVER (
        PARTITION BY pipeline, step, parallel_index, matrix, subject
        ORDER BY end_ns RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS passed_ns
    FROM attempts SEMI JOIN (FROM attempts WHERE command AND failed AND shown) AS failing
        USING (pipeline, step, parallel_index, matrix, subject)
),
failed_tests AS (
    SELECT trace_id, job_id, coalesce("class", '') AS "class", coalesce(name, '') AS name,
        arg_max(suite, end_ns) AS suite, arg_max(failure_message, end_ns) AS message
    FROM tests
    WHERE day BETWEEN CAST($since AS DATE) AND CAST($until AS DATE)
        AND result IN ('failed', 'error')
    GROUP BY ALL
)
SELECT pipeline, step, "class", name, arg_max(suite, end_ns) AS suite,
    count(*) FILTER (passed_ns IS NOT NULL) AS flaky_failures,
    count(DISTINCT subject) FILTER (passed_ns IS NOT NULL) AS flaky_commits,
    -- Of attempts that have not passed since: perhaps it is just broken.
    count(*) FILTER (passed_ns IS NULL) AS other_failures,
    to_timestamp(min(end_ns) FILTER (passed_ns IS NOT NULL) / 1e9) AS first_seen,
    to_timestamp(max(end_ns) FILTER (passed_ns IS NOT NULL) / 1e9) AS last_seen,
    arg_max(message, end_ns) FILTER (passed_ns IS NOT NULL) AS message,
    arg_max(url, end_ns) FILTER (passed_ns IS NOT NULL) AS last_seen_url
FROM followed JOIN failed_tests USING (trace_id, job_id)
WHERE command AND failed AND shown AND step GLOB $step
GROUP BY pipeline, step, "class", name
HAVING flaky_failures > 0
ORDER BY flaky_failures DESC, last_seen DESC, pipeline, step, "class", name;
