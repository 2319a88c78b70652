-- Which steps are flaky, how often, and what does it cost?
-- One row per command step with attempts that passed or failed; without flaky ones it comes last.
-- $since, $until: first and last day; $pipeline, $branch: globs, * for all; $by: day, week or month
-- for one row per step and period, or all.
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
flaky AS (
    SELECT pipeline, step, period, count(*) AS flaky_attempts,
        count(DISTINCT subject) AS flaky_commits,
        count(*) FILTER (day > CAST($until AS DATE) - 7) AS flaky_attempts_7d,
        min(end_ns) AS first_ns, max(end_ns) AS last_ns, arg_max(url, end_ns) AS last_seen_url,
        sum(duration_s) / 60 AS minutes_lost, median(passed_ns - end_ns) / 1e9 AS delay_p50_s,
        -- Amounts in several currencies have no sum.
        CASE WHEN count(DISTINCT currency) = 1 THEN sum(cost) END AS cost,
        CASE WHEN count(DISTINCT currency) = 1 THEN max(currency) END AS currency
    FROM followed
    WHERE command AND failed AND passed_ns IS NOT NULL AND shown
    GROUP BY pipeline, step, period
),
counted AS (
    SELECT pipeline, step, period, arg_max(label, end_ns) AS label, count(*) AS attempts,
        count(*) FILTER (failed) AS failures, count(DISTINCT subject) AS commits,
        count(*) FILTER (day > CAST($until AS DATE) - 7) AS attempts_7d,
        count(*) FILTER (end_ns > last_ns) AS attempts_since
    FROM attempts LEFT JOIN flaky USING (pipeline, step, period)
    WHERE command AND (passed OR failed) AND shown
    GROUP BY pipeline, step, period
)
SELECT pipeline, step, label, period, attempts, failures,
    coalesce(flaky_attempts, 0) AS flaky_attempts,
    coalesce(flaky_attempts, 0) / attempts AS flaky_rate,
    commits, coalesce(flaky_commits, 0) AS flaky_commits,
    coalesce(flaky_commits, 0) / commits AS flaky_commit_rate,
    -- The last 7 days of the whole period, and the days before them.
    CASE WHEN $by = 'all' THEN coalesce(flaky_attempts_7d, 0) / nullif(attempts_7d, 0)
        END AS flaky_rate_7d,
    CASE WHEN $by = 'all' THEN coalesce(flaky_attempts - flaky_attempts_7d, 0)
        / nullif(attempts - attempts_7d, 0) END AS flaky_rate_before,
    to_timestamp(first_ns / 1e9) AS first_seen, to_timestamp(last_ns / 1e9) AS last_seen,
    last_seen_url, CASE WHEN last_ns IS NOT NULL THEN attempts_since END AS attempts_since,
    coalesce(minutes_lost, 0) AS minutes_lost, delay_p50_s, cost, currency
FROM counted LEFT JOIN flaky USING (pipeline, step, period)
ORDER BY sum(coalesce(flaky_attempts, 0)) OVER (PARTITION BY pipeline, step) DESC,
    sum(coalesce(minutes_lost, 0)) OVER (PARTITION BY pipeline, step) DESC, pipeline, step, period;
