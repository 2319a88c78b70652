-- What did the jobs of each step, of each pipeline and of all come to?
-- $since, $until: first and last day; $qualified: as in report_builds.sql. `step` is null in the
-- rows of whole pipelines, `pipeline` too in the row over all.
WITH attempts AS (
    SELECT *,
        CASE WHEN $qualified::BOOLEAN THEN concat_ws('/', organization, pipeline)
            ELSE coalesce(pipeline, '(unknown)') END AS name,
        coalesce(nullif(step, ''), '(unknown)') AS step_name,
        coalesce(nullif(step_label, ''), nullif(step_key, ''), command) AS step_title,
        started AND type = 'script' AS ran, soft_failed AND NOT passed AS failed_softly,
        retried OR retried_in_job_id IS NOT NULL AS was_retried
    FROM jobs WHERE day BETWEEN $since::DATE AND $until::DATE AND type <> 'manual'
)
SELECT name AS pipeline, step_name AS step, arg_max(step_title, start_ns) AS label,
    -- Enough to show the values of a matrix.
    list(DISTINCT matrix ORDER BY matrix)[:50] AS matrices,
    count(*) AS jobs, count(*) FILTER (status = 'error') AS failures,
    count(*) FILTER (failed_softly) AS soft_failures, count(*) FILTER (passed) AS passed_jobs,
    failures / nullif(failures + passed_jobs, 0) AS failure_rate,
    count(*) FILTER (was_retried) AS retries,
    count(*) FILTER (was_retried AND retry_type = 'manual') AS retries_by_hand,
    quantile_cont(duration_s, 0.5)
        FILTER (ran AND (passed OR status = 'error' OR failed_softly)) AS duration_p50_s,
    quantile_cont(duration_s, 0.9)
        FILTER (ran AND (passed OR status = 'error' OR failed_softly)) AS duration_p90_s,
    quantile_cont(queue_s, 0.9) AS wait_p90_s,
    coalesce(sum(duration_s) FILTER (ran), 0) / 60 AS agent_minutes,
    CASE WHEN count(DISTINCT currency) FILTER (cost IS NOT NULL) <= 1 THEN sum(cost) END AS cost
FROM attempts
GROUP BY GROUPING SETS ((), (name), (name, step_name))
HAVING GROUPING(step_name) = 1 OR bool_or(type = 'script')
ORDER BY cost DESC NULLS LAST, agent_minutes DESC, name, step_name
