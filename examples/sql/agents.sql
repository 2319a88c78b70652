-- Which hosts lose agents or fail more jobs than others?
SELECT agent_hostname, queue, count(*) AS jobs,
    count(*) FILTER (error_type = 'agent_lost') AS lost, avg((status = 'error')::INT) AS failure_rate
FROM jobs
WHERE day >= current_date - 30 AND agent_hostname IS NOT NULL
GROUP BY agent_hostname, queue
ORDER BY lost DESC, failure_rate DESC
LIMIT 20;
