-- What broke? Failures of jobs by their signature: the new ones first, then the most frequent.
-- A failure is the section of a log in which a job failed, canceled ones left out. Of a job without
-- one, each failed test is. A signature is new if it was not seen from $known_since until the day before $since, on any
-- branch; null if no failure was seen then.
-- $since, $until: first and last day; $pipeline, $branch, $kind: globs, * for all.
WITH of_logs AS (
    SELECT day, trace_id, job_id, pipeline, step, branch, url, end_ns, failure_kind AS kind,
        failure_signature AS signature, failure_message AS message
    FROM sections
    WHERE day BETWEEN CAST($known_since AS DATE) AND CAST($until AS DATE)
        AND failure_kind IS NOT NULL
        AND NOT EXISTS (
            FROM jobs
            WHERE jobs.day = sections.day AND jobs.trace_id = sections.trace_id
                AND jobs.job_id = sections.job_id AND jobs.state = 'canceled'
        )
),
of_tests AS (
    SELECT day, trace_id, job_id, pipeline, step, branch, url, max(end_ns) AS end_ns,
        'test' AS kind, failure_signature AS signature,
        arg_max(failure_message, end_ns) AS message
    FROM tests
    WHERE day BETWEEN CAST($known_since AS DATE) AND CAST($until AS DATE)
        AND result IN ('failed', 'error')
        AND NOT EXISTS (
            FROM of_logs
            WHERE of_logs.day = tests.day AND of_logs.trace_id = tests.trace_id
                AND of_logs.job_id IS NOT DISTINCT FROM tests.job_id
        )
    GROUP BY ALL
),
found AS (
    SELECT *, day >= CAST($since AS DATE) AS now,
        now AND coalesce(pipeline, '') GLOB $pipeline AND coalesce(branch, '') GLOB $branch
            AND kind GLOB $kind AS shown,
        bool_or(NOT now) OVER () AS comparable
    FROM (FROM of_logs UNION ALL FROM of_tests)
)
SELECT signature, kind, count(*) FILTER (shown) AS failures,
    count(DISTINCT trace_id) FILTER (shown) AS builds,
    count(*) FILTER (NOT now) AS failures_before,
    -- Without a signature it is unknown whether two failures are the same.
    CASE WHEN any_value(comparable) AND signature IS NOT NULL THEN failures_before = 0 END AS is_new,
    to_timestamp(min(end_ns) / 1e9) AS first_seen,
    to_timestamp(max(end_ns) FILTER (shown) / 1e9) AS last_seen,
    list_sort(list(DISTINCT coalesce(pipeline, '')) FILTER (shown)) AS pipelines,
    list_sort(list(DISTINCT coalesce(step, '')) FILTER (shown)) AS steps,
    arg_max(message, end_ns) FILTER (shown) AS message, arg_max(url, end_ns) FILTER (shown) AS url
FROM found
GROUP BY signature, kind
HAVING failures > 0
ORDER BY coalesce(is_new, false) DESC, failures DESC, last_seen DESC, kind, signature;
