-- How much of a build is work, waiting for agents, and waiting for people?
SELECT pipeline, count(*) AS builds, avg(duration_s) AS build_s, avg(critical_run_s) AS run_s,
    avg(critical_wait_s) AS wait_s, avg(critical_blocked_s) AS blocked_s
FROM builds
WHERE day >= current_date - 30
GROUP BY pipeline
ORDER BY build_s DESC;
