-- At which hours of the week do jobs wait for agents? A row per weekday (Monday is 1) and hour of
-- the day at which jobs began to wait, in the time zone $zone; $since, $until: first and last day.
SELECT isodow(since) AS weekday, hour(since) AS hour, count(*) AS jobs,
    quantile_cont(queue_s, 0.5) AS wait_p50_s, quantile_cont(queue_s, 0.9) AS wait_p90_s
FROM (
    SELECT timezone($zone, make_timestamptz(start_ns // 1000 - (queue_s * 1e6)::BIGINT)) AS since,
        queue_s
    FROM jobs
    WHERE day BETWEEN $since::DATE AND $until::DATE AND type = 'script' AND started
        AND queue_s IS NOT NULL
)
GROUP BY ALL ORDER BY ALL
