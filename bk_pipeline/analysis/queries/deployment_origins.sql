-- Where does the change of each deploying build come from?
-- $builds: ids of builds; $since, $until: the days to look for them and for the builds before them.
-- A build that another one triggered deploys the commit of that one. Of builds of the same commit in
-- the same repository, the earliest counts. One row per build of $builds that is stored.
WITH RECURSIVE known AS (
    SELECT "buildkite.build.id" AS build_id, "buildkite.build.triggered_from.build_id" AS parent_id,
        "buildkite.pipeline.repo" AS repository,
        CASE WHEN "buildkite.build.commit" NOT IN ('', 'HEAD') THEN "buildkite.build.commit" END
            AS "commit",
        coalesce(try_cast("buildkite.build.created_at" AS TIMESTAMPTZ), "start") AS created_at
    FROM spans
    WHERE name = 'buildkite.build'
        AND day BETWEEN CAST($since AS DATE) AND CAST($until AS DATE)
),
chain AS (
    SELECT build_id AS deploying_id, build_id, parent_id, 0 AS hop
    FROM known WHERE build_id IN (SELECT unnest(CAST($builds AS VARCHAR[])))
    UNION ALL
    SELECT chain.deploying_id, known.build_id, known.parent_id, chain.hop + 1
    FROM chain JOIN known ON known.build_id = chain.parent_id
    WHERE chain.hop < 5
),
origins AS (
    SELECT deploying_id, min(known.created_at) AS chain_at, max(hop) AS hops,
        -- The commit of the build at the beginning of the chain.
        arg_max(known.repository, hop) FILTER ("commit" IS NOT NULL) AS repository,
        max_by("commit", hop) FILTER ("commit" IS NOT NULL) AS "commit"
    FROM chain JOIN known USING (build_id)
    GROUP BY deploying_id
),
firsts AS (
    SELECT repository, "commit", min(created_at) AS first_at
    FROM known SEMI JOIN origins USING (repository, "commit")
    GROUP BY ALL
)
SELECT deploying_id AS build_id, repository, "commit", hops, chain_at, first_at
FROM origins LEFT JOIN firsts USING (repository, "commit");
