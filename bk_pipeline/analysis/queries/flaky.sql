-- Which steps are flaky, how often, and what does that cost?
-- One row per command step that passed or failed; those without flaky attempts come last.
-- $since, $until: first and last day; $pipeline, $branch: globs, or null for all.
WITH attempts AS (
    SELECT day, coalesce(pipeline, '(unknown)') AS pipeline, coalesce(step, '(unknown)') AS step,
        coalesce(parallel_index, -1) AS parallel_index, coalesce(matrix, '') AS matrix,
        -- Builds without a known commit have none in common.
        CASE WHEN coalesce("commit", '') IN ('', 'HEAD') THEN trace_id ELSE "commit" END AS subject,
        label, branch, url, end_ns, duration_s, type = 'script' AS command, passed,
        started AND NOT passed AND coalesce(state, '') IN ('failed', 'timed_out', 'finished')
            -- An agent that was lost or stopped says nothing about the step.
            AND coalesce(error_type, '') <> 'agent_lost'
            AND (state = 'timed_out' OR coalesce(signal_reason, '') <> 'agent_stop'
                AND (coalesce(exit_status, 0) <> -1 OR signal_reason IS NOT NULL)) AS failed
    FROM jobs
    WHERE day BETWEEN CAST($since AS DATE) AND CAST($until AS DATE) AND type <> 'manual'
        AND ($pipeline IS NULL OR coalesce(pipeline, '(unknown)') GLOB $pipeline)
),
-- The end of the first pass of the same job on the same commit, for jobs that ever failed.
followed AS (
    SELECT *, min(CASE WHEN passed THEN end_ns END) OVER (
        PARTITION BY pipeline, step, parallel_index, matrix, subject
        ORDER BY end_ns RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS passed_ns
    FROM attempts SEMI JOIN (FROM attempts WHERE command AND failed) AS failing
        USING (pipeline, step, parallel_index, matrix, subject)
),
flaky AS (FROM followed WHERE command AND failed AND passed_ns IS NOT NULL),
counted AS (
    SELECT pipeline, step, arg_max(label, end_ns) AS label, count(*) AS attempts,
        count(*) FILTER (failed) AS failures, count(DISTINCT subject) AS commits,
        count(*) FILTER (day > CAST($until AS DATE) - 7) AS attempts_7d
    FROM attempts
    WHERE command AND (passed OR failed) AND ($branch IS NULL OR coalesce(branch, '') GLOB $branch)
    GROUP BY pipeline, step
),
found AS (
    SELECT pipeline, step, count(*) AS flaky_attempts, count(DISTINCT subject) AS flaky_commits,
        count(*) FILTER (day > CAST($until AS DATE) - 7) AS flaky_attempts_7d,
        min(end_ns) AS first_ns, max(end_ns) AS last_ns, arg_max(url, end_ns) AS last_seen_url,
        sum(duration_s) / 60 AS minutes_lost, median(passed_ns - end_ns) / 1e9 AS delay_p50_s
    FROM flaky
    WHERE $branch IS NULL OR coalesce(branch, '') GLOB $branch
    GROUP BY pipeline, step
)
SELECT pipeline, step, label, attempts, failures,
    coalesce(flaky_attempts, 0) AS flaky_attempts,
    coalesce(flaky_attempts, 0) / attempts AS flaky_rate,
    commits, coalesce(flaky_commits, 0) AS flaky_commits,
    -- The last 7 days of the period, and the days before them.
    coalesce(flaky_attempts_7d, 0) / nullif(attempts_7d, 0) AS flaky_rate_7d,
    coalesce(flaky_attempts - flaky_attempts_7d, 0) / nullif(attempts - attempts_7d, 0)
        AS flaky_rate_before,
    make_timestamp_ns(first_ns) AS first_seen, make_timestamp_ns(last_ns) AS last_seen, last_seen_url,
    coalesce(minutes_lost, 0) AS minutes_lost, delay_p50_s
FROM counted LEFT JOIN found USING (pipeline, step)
ORDER BY flaky_attempts DESC, minutes_lost DESC, pipeline, step;
