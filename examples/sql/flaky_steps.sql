-- Which steps are flaky? They failed and passed on the same commit.
WITH attempts AS (
    SELECT pipeline, step, "commit", parallel_index, matrix,
        bool_or(passed) AND bool_or(NOT passed AND state IN ('failed', 'timed_out')) AS flaky
    FROM jobs
    WHERE day >= current_date - 30 AND type = 'script' AND started AND "commit" <> 'HEAD'
    GROUP BY ALL
)
SELECT pipeline, step, count(DISTINCT "commit") AS commits,
    count(DISTINCT "commit") FILTER (flaky) AS flaky_commits
FROM attempts
GROUP BY pipeline, step
HAVING flaky_commits > 0
ORDER BY flaky_commits DESC, pipeline, step;
