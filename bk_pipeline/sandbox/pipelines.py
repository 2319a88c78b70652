"""The definitions of the sandbox's pipelines.

Each covers features that traces must handle; its `shape` says which. Steps
between two wait or block steps run in parallel.
"""

from __future__ import annotations

from typing import Any

from bk_pipeline.sandbox.blueprint import Blueprint, Step


def script_step(label: str | None, command: str, duration_s: int, **rest: Any) -> Step:
    """A command step with a median run time of `duration_s` seconds."""
    return Step("script", label, command=command, duration_s=duration_s, **rest)


WAIT = Step("waiter")
UPLOAD = Step("script", ":pipeline:", command="buildkite-agent pipeline upload", duration_s=7)

_BROWSERS = tuple({"browser": name} for name in ("chrome", "firefox", "webkit"))
_GO_VERSIONS = tuple(
    {"go": go, "arch": arch} for go in ("1.23", "1.24") for arch in ("amd64", "arm64")
)
_REGIONS = tuple({"region": name} for name in ("eu-west-1", "us-east-1", "ap-southeast-2"))

BLUEPRINTS = (
    Blueprint(
        slug="web",
        name=":react: Web app",
        shape="groups, parallel and matrix jobs, an async trigger after two wait steps",
        weight=26,
        description="The shop's front end",
        emoji=":react:",
        color="#61dafb",
        tags=("frontend", "tier-1"),
        steps=(
            script_step(":eslint: Lint", "yarn lint", 45, key="lint", group="checks"),
            script_step(":typescript: Types", "yarn tsc --noEmit", 70, key="types", group="checks"),
            script_step(
                ":jest: Unit tests %n",
                "yarn test --shard",
                150,
                key="unit",
                group="checks",
                parallel=3,
                retries=2,
            ),
            WAIT,
            script_step(
                ":webpack: Bundle",
                "yarn build\nyarn size-limit",
                110,
                key="bundle",
                group="build",
                artifacts="dist/**/*",
            ),
            script_step(
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
        weight=24,
        description="HTTP API and workers",
        repository="git@github.com:acme/api.git",
        emoji=":golang:",
        cluster="Linux fleet",
        tags=("backend", "tier-1"),
        steps=(
            script_step(":golangci-lint: Lint", "make lint", 50, key="lint", group="checks"),
            script_step(
                ":go: Test {{matrix.go}} {{matrix.arch}}",
                "make test",
                130,
                key="test",
                group="checks",
                matrix=_GO_VERSIONS,
                retries=1,
            ),
            script_step("Fuzz 🐛", "make fuzz", 200, key="fuzz", group="checks", soft_fail=True),
            WAIT,
            script_step(
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
        shape="scarce agents and long waits; a block step that is not always unblocked",
        weight=12,
        description="iOS and Android",
        repository="git@github.com:acme/mobile.git",
        emoji="📱",
        cluster="Mac minis",
        tags=("mobile",),
        steps=(
            script_step(
                ":xcode: Build iOS",
                "fastlane ios build",
                420,
                key="ios",
                queue="macos",
                artifacts="*.ipa",
                timeout_minutes=40,
            ),
            script_step(
                ":android: Build Android",
                "./gradlew assembleRelease",
                300,
                key="android",
                artifacts="*.apk",
            ),
            WAIT,
            script_step(
                ":iphone: UI tests %n",
                "fastlane ios ui_tests",
                260,
                key="ui-tests",
                queue="macos",
                parallel=4,
                retries=2,
            ),
            Step("manual", ":testflight: Ship to testers?", "ship"),
            script_step(
                ":testflight: Ship", "fastlane beta", 90, key="ship-beta", queue="macos", priority=5
            ),
        ),
    ),
    Blueprint(
        slug="deploy",
        name=":rocket: Deploy",
        shape="triggered by other pipelines; a block step and then a second stage",
        weight=8,
        repository="git@github.com:acme/deploy.git",
        color="#14cc80",
        cluster="Linux fleet",
        tags=("deploy", "tier-1"),
        steps=(
            script_step(
                ":helm: Staging",
                "bin/deploy staging",
                80,
                key="staging",
                queue="deploy",
                priority=10,
            ),
            WAIT,
            script_step(":fire: Smoke test", "bin/smoke staging", 40, key="smoke", retries=1),
            Step("manual", ":shipit: Release to production", "release"),
            script_step(
                ":helm: Production {{matrix.region}}",
                "bin/deploy production",
                110,
                key="production",
                queue="deploy",
                priority=10,
                matrix=_REGIONS,
            ),
            WAIT,
            script_step(":heartbeat: Verify", "bin/smoke production", 45, key="verify"),
        ),
    ),
    Blueprint(
        slug="e2e",
        name=":cypress: End to end",
        shape="many parallel jobs of one step; mostly triggered",
        weight=3,
        repository="git@github.com:acme/e2e.git",
        tags=("quality",),
        steps=(
            script_step(
                ":cypress: Suite %n/%t",
                "npx cypress run --parallel",
                190,
                key="suite",
                parallel=6,
                retries=1,
                artifacts="cypress/videos/**/*.mp4",
            ),
            WAIT,
            script_step("Report", "bin/report", 15),
        ),
    ),
    Blueprint(
        slug="data-jobs",
        name=":snake: Data jobs",
        shape="scheduled at night, jobs without names or keys, a queue that starves",
        weight=5,
        description="dbt and model training",
        repository="git@github.com:acme/data.git",
        hours=(2, 3, 14),
        tags=("data",),
        steps=(
            script_step(None, "dbt build --select staging", 240, artifacts="target/*.json"),
            script_step(None, "dbt build --select marts", 300),
            WAIT,
            script_step("", "python -m acme.train", 900, queue="gpu", timeout_minutes=45),
            script_step(
                ":bar_chart: Publish metrics", "python -m acme.publish", 60, soft_fail=True
            ),
        ),
    ),
    Blueprint(
        slug="infra",
        name=":terraform: Infra",
        shape="an input step and a block step: up to three stages",
        weight=9,
        repository="git@github.com:acme/infra.git",
        cluster="Linux fleet",
        default_branch="master",
        tags=("platform",),
        steps=(
            script_step(
                ":terraform: Plan {{matrix.region}}",
                "bin/plan",
                65,
                key="plan",
                group="plan",
                matrix=_REGIONS,
            ),
            script_step(":lock: Policy", "conftest test plan.json", 20, key="policy", group="plan"),
            Step(
                "manual",
                ":calendar: Choose the change window",
                "window",
                fields=(("change-window", "02:00-04:00"), ("ticket", "4711")),
            ),
            script_step(":memo: Announce", "bin/announce", 8, key="announce"),
            Step("manual", "Apply?", "gate"),
            script_step(
                ":terraform: Apply", "bin/apply", 150, key="apply", queue="deploy", priority=10
            ),
        ),
    ),
    Blueprint(
        slug="docs",
        name=":books: Docs",
        shape="small and quick; a publishing job that is broken on branches",
        weight=13,
        repository="git@github.com:acme/docs.git",
        steps=(
            script_step(":vale: Prose", "vale docs", 12, key="prose"),
            script_step(":link: Links", "lychee docs", 35, soft_fail=True),
            script_step(
                ":book: Build", "mkdocs build --strict", 40, key="build", artifacts="site/**/*"
            ),
            WAIT,
            script_step(
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
        weight=0,
        steps=(
            script_step(":mag: Lint", "make lint", 3, key="lint", group="checks"),
            script_step(
                ":test_tube: Test %n", "make test", 6, key="test", group="checks", parallel=2
            ),
            WAIT,
            script_step(":package: Package", "make package", 4, key="package"),
        ),
    ),
)
