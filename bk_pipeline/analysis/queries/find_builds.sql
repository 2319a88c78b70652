-- Which builds were there?
-- $since, $until: first and last day; $pipeline, $branch, $state: globs, * for all; $text: a part of
-- the commit, the message, the author's or the creator's name, empty for all; $by: newest or slowest.
SELECT pipeline, number, state, branch, "commit", message, creator, author, pull_request, created_at,
    duration_s, queue_s, critical_run_s, critical_wait_s, critical_blocked_s, cost, currency, url, build_id
FROM builds
WHERE day BETWEEN CAST($since AS DATE) AND CAST($until AS DATE)
    AND coalesce(pipeline, '') GLOB $pipeline
    AND coalesce(branch, '') GLOB $branch
    AND coalesce(state, '') GLOB $state
    AND ($text = '' OR contains(lower(concat_ws(chr(10), "commit", message, creator, author)), lower($text)))
ORDER BY CASE WHEN $by = 'slowest' THEN duration_s END DESC NULLS LAST, created_at DESC NULLS LAST, build_id;
