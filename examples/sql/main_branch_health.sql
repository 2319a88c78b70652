-- Is main green? Builds of the main branch by pipeline, and the last one.
SELECT pipeline, count(*) AS builds, avg((state = 'passed')::INT) AS pass_rate,
    max(created_at) AS last_build_at, arg_max(state, created_at) AS last_state
FROM builds
WHERE day >= current_date - 30 AND branch IN ('main', 'master') AND state IN ('passed', 'failed')
GROUP BY pipeline
ORDER BY pass_rate, pipeline;
