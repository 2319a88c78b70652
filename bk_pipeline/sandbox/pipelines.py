"""The pipelines of the sandbox's organization, as data.

Each is there for a shape that traces must cope with; `shape` says which.
Steps between two waits (or blocks) run side by side.
"""

from __future__ import annotations

from typing import Any

from bk_pipeline.sandbox.blueprint import Blueprint, Step


def script(label: str | None, command: str, seconds: int, **rest: Any) -> Step:
    return Step("script", label, command=command, seconds=seconds, **rest)


WAIT = Step("waiter")
UPLOAD = Step("script", ":pipeline:", command="buildkite-agent pipeline upload", seconds=7)

_BROWSERS = tuple({"browser": name} for name in ("chrome", "firefox", "webkit"))
_GO_VERSIONS = tuple(
    {"go": go, "arch": arch} for go in ("1.23", "1.24") for arch in ("amd64", "arm64")
)
_REGIONS = tuple({"region": name} for name in ("eu-west-1", "us-east-1", "ap-southeast-2"))

BLUEPRINTS = (
    Blueprint(
        slug="web",
        name=":react: Web app",
        shape="groups, parallel and matrix jobs, an async trigger behind two waits",
        share=26,
        description="The shop's front end",
        emoji=":react:",
        color="#61dafb",
        tags=("frontend", "tier-1"),
        steps=(
            script(":eslint: Lint", "yarn lint", 45, key="lint", group="checks"),
            script(":typescript: Types", "yarn tsc --noEmit", 70, key="types", group="checks"),
            script(
                ":jest: Unit tests %n",
                "yarn test --shard",
                150,
                key="unit",
                group="checks",
                parallel=3,
                retries=2,
            ),
            WAIT,
            script(
                ":webpack: Bundle",
                "yarn build\nyarn size-limit",
                110,
                key="bundle",
                group="build",
                artifacts="dist/**/*",
            ),
            script(
                ":playwright: {{matrix}}",
                "yarn e2e",
                180,
                key="browsers",
                group="build",
                matrix=_BROWSERS,
                soft_fail=True,
            ),
            WAIT,
            Step(
                "trigger",
                ":rocket: Deploy",
                "deploy-web",
                target="deploy",
                is_async=True,
                main_only=True,
            ),
        ),
    ),
    Blueprint(
        slug="api",
        name=":golang: API — “core”",
        shape="a matrix of two dimensions, a trigger that waits for its build, soft failures",
        share=24,
        description="HTTP API and workers",
        repository="git@github.com:acme/api.git",
        emoji=":golang:",
        cluster="Linux fleet",
        tags=("backend", "tier-1"),
        steps=(
            script(":golangci-lint: Lint", "make lint", 50, key="lint", group="checks"),
            script(
                ":go: Test {{matrix.go}} {{matrix.arch}}",
                "make test",
                130,
                key="test",
                group="checks",
                matrix=_GO_VERSIONS,
                retries=1,
            ),
            script("Fuzz 🐛", "make fuzz", 200, key="fuzz", group="checks", soft_fail=True),
            WAIT,
            script(
                ":postgres: Integration %n",
                "make integration",
                160,
                key="integration",
                parallel=2,
                queue="arm",
                retries=1,
            ),
            WAIT,
            Step("trigger", ":cypress: End to end", "e2e", target="e2e"),
        ),
    ),
    Blueprint(
        slug="mobile",
        name="📱 Mobile",
        shape="scarce agents and long waits; a block step that some never unblock",
        share=12,
        description="iOS and Android",
        repository="git@github.com:acme/mobile.git",
        emoji="📱",
        cluster="Mac minis",
        tags=("mobile",),
        steps=(
            script(
                ":xcode: Build iOS",
                "fastlane ios build",
                420,
                key="ios",
                queue="macos",
                artifacts="*.ipa",
                timeout_minutes=40,
            ),
            script(
                ":android: Build Android",
                "./gradlew assembleRelease",
                300,
                key="android",
                artifacts="*.apk",
            ),
            WAIT,
            script(
                ":iphone: UI tests %n",
                "fastlane ios ui_tests",
                260,
                key="ui-tests",
                queue="macos",
                parallel=4,
                retries=2,
            ),
            Step("manual", ":testflight: Ship to testers?", "ship"),
            script(
                ":testflight: Ship", "fastlane beta", 90, key="ship-beta", queue="macos", priority=5
            ),
        ),
    ),
    Blueprint(
        slug="deploy",
        name=":rocket: Deploy",
        shape="triggered by others; a gate and then a second stage",
        share=8,
        repository="git@github.com:acme/deploy.git",
        color="#14cc80",
        cluster="Linux fleet",
        tags=("deploy", "tier-1"),
        steps=(
            script(
                ":helm: Staging",
                "bin/deploy staging",
                80,
                key="staging",
                queue="deploy",
                priority=10,
            ),
            WAIT,
            script(":fire: Smoke test", "bin/smoke staging", 40, key="smoke", retries=1),
            Step("manual", ":shipit: Release to production", "release"),
            script(
                ":helm: Production {{matrix.region}}",
                "bin/deploy production",
                110,
                key="production",
                queue="deploy",
                priority=10,
                matrix=_REGIONS,
            ),
            WAIT,
            script(":heartbeat: Verify", "bin/smoke production", 45, key="verify"),
        ),
    ),
    Blueprint(
        slug="e2e",
        name=":cypress: End to end",
        shape="many parallel jobs of one step; mostly triggered",
        share=3,
        repository="git@github.com:acme/e2e.git",
        tags=("quality",),
        steps=(
            script(
                ":cypress: Suite %n/%t",
                "npx cypress run --parallel",
                190,
                key="suite",
                parallel=6,
                retries=1,
                artifacts="cypress/videos/**/*.mp4",
            ),
            WAIT,
            script("Report", "bin/report", 15),
        ),
    ),
    Blueprint(
        slug="data-jobs",
        name=":snake: Data jobs",
        shape="scheduled at night, jobs without names or keys, a queue that starves",
        share=5,
        description="dbt and model training",
        repository="git@github.com:acme/data.git",
        hours=(2, 3, 14),
        tags=("data",),
        steps=(
            script(None, "dbt build --select staging", 240, artifacts="target/*.json"),
            script(None, "dbt build --select marts", 300),
            WAIT,
            script("", "python -m acme.train", 900, queue="gpu", timeout_minutes=45),
            script(":bar_chart: Publish metrics", "python -m acme.publish", 60, soft_fail=True),
        ),
    ),
    Blueprint(
        slug="infra",
        name=":terraform: Infra",
        shape="an input step and a block step: up to three stages",
        share=9,
        repository="git@github.com:acme/infra.git",
        cluster="Linux fleet",
        default_branch="master",
        tags=("platform",),
        steps=(
            script(
                ":terraform: Plan {{matrix.region}}",
                "bin/plan",
                65,
                key="plan",
                group="plan",
                matrix=_REGIONS,
            ),
            script(":lock: Policy", "conftest test plan.json", 20, key="policy", group="plan"),
            Step(
                "manual",
                ":calendar: Choose the change window",
                "window",
                fields=(("change-window", "02:00-04:00"), ("ticket", "4711")),
            ),
            script(":memo: Announce", "bin/announce", 8, key="announce"),
            Step("manual", "Apply?", "gate"),
            script(":terraform: Apply", "bin/apply", 150, key="apply", queue="deploy", priority=10),
        ),
    ),
    Blueprint(
        slug="docs",
        name=":books: Docs",
        shape="small and quick; a publishing job that is broken on branches",
        share=13,
        repository="git@github.com:acme/docs.git",
        steps=(
            script(":vale: Prose", "vale docs", 12, key="prose"),
            script(":link: Links", "lychee docs", 35, soft_fail=True),
            script(":book: Build", "mkdocs build --strict", 40, key="build", artifacts="site/**/*"),
            WAIT,
            script(
                ":globe_with_meridians: Publish",
                "mkdocs gh-deploy",
                25,
                key="publish",
                main_only=True,
            ),
        ),
    ),
    Blueprint(
        slug="playground",
        name=":wave: Playground",
        shape="empty until a user asks for a build that has just finished",
        share=0,
        steps=(
            script(":mag: Lint", "make lint", 3, key="lint", group="checks"),
            script(":test_tube: Test %n", "make test", 6, key="test", group="checks", parallel=2),
            WAIT,
            script(":package: Package", "make package", 4, key="package"),
        ),
    ),
)
