-- Where does the time of builds go? The steps on the critical path, by the time they cost.
SELECT pipeline, step, count(DISTINCT build_id) AS builds, sum(critical_path_s) / 60 AS minutes
FROM jobs
WHERE day >= current_date - 30 AND on_critical_path
GROUP BY pipeline, step
ORDER BY minutes DESC
LIMIT 20;
