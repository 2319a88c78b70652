-- Which sections of jobs' logs took the most time in all?
-- $since, $until: first and last day; $qualified: as in report_builds.sql; $rows: how many.
SELECT CASE WHEN $qualified::BOOLEAN THEN concat_ws('/', organization, pipeline)
        ELSE coalesce(pipeline, '(unknown)') END AS pipeline,
    coalesce(nullif(step, ''), '(unknown)') AS step, phase, name AS section,
    arg_max(label, start_ns) AS label, count(*) AS times, sum(duration_s) / 60 AS minutes,
    quantile_cont(duration_s, 0.5) AS duration_p50_s,
    quantile_cont(duration_s, 0.9) AS duration_p90_s
FROM sections
WHERE day BETWEEN $since::DATE AND $until::DATE AND name IS NOT NULL
GROUP BY ALL
ORDER BY minutes DESC, pipeline, step, section
LIMIT $rows::BIGINT;
