-- What does CI cost, and what of it do retries and failures cost? By pipeline. An attempt that failed
-- and was retried is in both. Empty without prices (BK_PIPELINE_COSTS, docs/cost.md).
SELECT pipeline, currency, count(*) AS builds,
    sum(cost) AS cost, avg(cost) AS cost_per_build,
    sum(retries_cost) AS retries_cost, sum(failures_cost) AS failures_cost
FROM builds
WHERE day >= current_date - 30 AND cost IS NOT NULL
GROUP BY pipeline, currency
ORDER BY cost DESC;
