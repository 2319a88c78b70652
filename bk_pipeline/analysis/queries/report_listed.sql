-- Which builds took longest ($which = 'slowest'), or failed last ('failed')?
-- $since, $until: first and last day; $rows: how many; $qualified: as in report_builds.sql.
SELECT day, trace_id, start_ns, end_ns,
    CASE WHEN $qualified::BOOLEAN THEN concat_ws('/', organization, pipeline)
        ELSE coalesce(pipeline, '(unknown)') END AS pipeline,
    number, CASE WHEN blocked THEN 'blocked' ELSE coalesce(state, '(unknown)') END AS state,
    run_s, queue_s, branch, message, url, cost
FROM builds
WHERE day BETWEEN $since::DATE AND $until::DATE
    AND ($which = 'slowest' OR state = 'failed' AND NOT blocked)
ORDER BY CASE WHEN $which = 'slowest' THEN run_s END DESC NULLS LAST, start_ns DESC, trace_id
LIMIT $rows
