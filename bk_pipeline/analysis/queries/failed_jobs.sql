-- Which jobs failed? Hard failures only, the newest first; attempts that were retried are marked.
-- $since, $until: first and last day; $pipeline, $branch, $step: globs, * for all.
SELECT finished_at, pipeline, build_number, branch, "commit", step, label, error_type, exit_status,
    signal_reason, retried, duration_s, queue, agent, url, job_id
FROM jobs
WHERE day BETWEEN CAST($since AS DATE) AND CAST($until AS DATE)
    AND status = 'error'
    AND coalesce(pipeline, '') GLOB $pipeline
    AND coalesce(branch, '') GLOB $branch
    AND coalesce(step, '') GLOB $step
ORDER BY end_ns DESC, job_id;
