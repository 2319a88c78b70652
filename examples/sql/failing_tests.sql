-- Which tests fail most? Attempts and builds in which each failed, and the last message.
SELECT pipeline, step, "class", name, count(*) AS failures, count(DISTINCT build_id) AS builds,
    max(started_at) AS last_seen, arg_max(failure_message, started_at) AS message,
    arg_max(url, started_at) AS url
FROM tests
WHERE day >= current_date - 30 AND result IN ('failed', 'error')
GROUP BY pipeline, step, "class", name
ORDER BY failures DESC, pipeline, step, "class", name
LIMIT 20;
