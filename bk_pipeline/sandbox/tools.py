"""The tools that simulated jobs run: what they print, and how they fail.

The texts are in the style of the real tools. `kind` is what a person would call the cause of a
failure: test, build, infrastructure, timeout or unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool.

    Args:
        command: A part of the commands that run it.
        name: What it is called here.
        progress: Lines that it prints while it works; `{n}` counts up.
        errors: Lines with which it fails, if not because of a test. `{n}` is a line number.
        kind: What such a failure is.
        suites: If it runs tests: their suites, each a file and a class or package.
    """

    command: str
    name: str
    progress: tuple[str, ...]
    errors: tuple[str, ...]
    kind: str = "build"
    suites: tuple[tuple[str, str], ...] = ()


_YARN_ERROR = (
    "error Command failed with exit code 1.",
    "info Visit https://yarnpkg.com/en/docs/cli/run for documentation about this command.",
)
_SHOP = ("cart", "checkout", "login", "orders", "prices", "search", "stock", "users")
_GO_SUITES = tuple((f"internal/{one}/{one}_test.go", f"acme/internal/{one}") for one in _SHOP)
_JEST_SUITES = tuple((f"src/{one}/{one}.test.ts", f"{one} store") for one in _SHOP)
_BROWSER_SUITES = tuple((f"e2e/{one}.spec.ts", f"{one}.spec.ts") for one in _SHOP[:5])
_PYTEST_SUITES = tuple((f"tests/smoke/test_{one}.py", f"tests.smoke.test_{one}") for one in _SHOP)
_SWIFT_SUITES = tuple((f"UITests/{one.title()}Tests.swift", f"{one.title()}Tests") for one in _SHOP)

TOOLS = (
    Tool(
        "pipeline upload",
        "upload",
        ("Found config file `.buildkite/pipeline.yml`", "Parsing pipeline config"),
        ("fatal: Failed to parse .buildkite/pipeline.yml: line {n}: did not find expected key",),
    ),
    Tool(
        "yarn lint",
        "eslint",
        ("yarn run v1.22.22", "$ eslint src --max-warnings 0", "src/{n}.ts: checked"),
        (
            "/app/src/cart/total.ts",
            "  {n}:7  error  'rate' is assigned a value but never used  no-unused-vars",
            "",
            "\u2716 1 problem (1 error, 0 warnings)",
            *_YARN_ERROR,
        ),
    ),
    Tool(
        "tsc",
        "tsc",
        ("yarn run v1.22.22", "$ tsc --noEmit"),
        (
            "src/checkout/pay.ts({n},14): error TS2345: Type 'string' is not assignable to 'number'.",
            "Found 1 error in src/checkout/pay.ts:{n}",
            *_YARN_ERROR,
        ),
    ),
    Tool(
        "yarn test",
        "jest",
        ("yarn run v1.22.22", "$ jest --ci --shard"),
        ("\u25cf Test suite failed to run", "", "    Cannot find module '../money' from 'src/cart.ts'"),
        suites=_JEST_SUITES,
    ),
    Tool(
        "yarn build",
        "webpack",
        ("yarn run v1.22.22", "$ webpack --mode production", "<s> [webpack.Progress] {n}% building"),
        (
            "ERROR in ./src/index.tsx {n}:0-34",
            "Module not found: Error: Can't resolve './theme' in '/app/src'",
            "webpack 5.101.0 compiled with 1 error in 48211 ms",
            *_YARN_ERROR,
        ),
    ),
    Tool(
        "yarn e2e",
        "playwright",
        ("Running 40 tests using 4 workers",),
        ("Error: browserType.launch: Executable doesn't exist at /ms-playwright/chromium",),
        kind="infrastructure",
        suites=_BROWSER_SUITES,
    ),
    Tool(
        "cypress",
        "cypress",
        ("  (Run Starting)", "  Running:  spec {n}"),
        ("Cypress failed to verify that your server is running.", "  > http://localhost:3000"),
        kind="infrastructure",
        suites=_BROWSER_SUITES,
    ),
    Tool(
        "make lint",
        "golangci-lint",
        ("golangci-lint run ./...", 'level=info msg="[runner] linters took {n}s"'),
        (
            "internal/api/router.go:{n}:6: func oldRoute is unused (unused)",
            "make: *** [Makefile:12: lint] Error 1",
        ),
    ),
    Tool(
        "make",
        "go",
        ("go: downloading github.com/jackc/pgx/v5 v5.7.{n}", "go vet ./..."),
        (
            "# acme/internal/store",
            "internal/store/pg.go:{n}:19: undefined: pgx.Conn",
            "FAIL\tacme/internal/store [build failed]",
            "make: *** [Makefile:18: test] Error 1",
        ),
        suites=_GO_SUITES,
    ),
    Tool(
        "ui_tests",
        "xcodebuild",
        ("Testing started on 'iPhone 16'",),
        ("** TEST BUILD FAILED **", "UITests/Helpers.swift:{n}:18: error: cannot find 'Money' in scope"),
        suites=_SWIFT_SUITES,
    ),
    Tool(
        "fastlane",
        "fastlane",
        ("[10:00:{n}]: Resolving Swift Package Manager dependencies...", "CompileSwift normal arm64"),
        (
            "/Users/ci/app/Cart.swift:{n}:18: error: cannot find 'Money' in scope",
            "** BUILD FAILED **",
            "[!] Error building the application - see the log above",
        ),
    ),
    Tool(
        "gradlew",
        "gradle",
        ("> Task :app:preBuild UP-TO-DATE", "> Task :lib{n}:compileReleaseKotlin"),
        (
            "e: file:///app/src/main/java/Cart.kt:{n}:9 Unresolved reference: total",
            "FAILURE: Build failed with an exception.",
            "* What went wrong:",
            "Execution failed for task ':app:compileReleaseKotlin'.",
            "BUILD FAILED in 2m 3s",
        ),
    ),
    Tool(
        "dbt",
        "dbt",
        ("{n} of 48 START sql table model staging.stg_{n} ........ [RUN]",),
        (
            "Database Error in model stg_orders (models/staging/stg_orders.sql)",
            '  column "total" does not exist',
            "  LINE {n}: select total",
            "Done. PASS=41 WARN=0 ERROR=1 SKIP=6 TOTAL=48",
        ),
    ),
    Tool(
        "bin/smoke",
        "pytest",
        ("============================= test session starts ==============================",),
        ("ImportError while importing test module '/app/tests/smoke/test_cart.py'.",),
        suites=_PYTEST_SUITES,
    ),
    Tool(
        "bin/deploy",
        "helm",
        ('Release "shop" is being upgraded', "waiting for deployment/api: {n} of 8 replicas are ready"),
        ("Error: UPGRADE FAILED: release shop failed: timed out waiting for the condition",),
        kind="unknown",
    ),
    Tool(
        "bin/plan",
        "terraform",
        ("Initializing provider plugins...", "aws_s3_bucket.assets[{n}]: Refreshing state..."),
        (
            "Error: Reference to undeclared resource",
            '  on network.tf line {n}, in resource "aws_route" "nat":',
        ),
    ),
    Tool(
        "bin/apply",
        "terraform",
        ("aws_instance.runner[{n}]: Still creating... [10s elapsed]",),
        ("Error: creating EC2 Instance: InsufficientInstanceCapacity",),
        kind="infrastructure",
    ),
    Tool(
        "mkdocs",
        "mkdocs",
        ("INFO    -  Building documentation to directory: /app/site",),
        (
            "WARNING -  Doc file 'index.md' contains a link 'setup.md', but the target is not found",
            "Aborted with 1 warnings in strict mode!",
        ),
    ),
    Tool(
        "lychee",
        "lychee",
        ("{n}/480 docs/page{n}.md",),
        ("[404] https://example.com/old | Failed: Network error: Not Found",),
        kind="unknown",
    ),
)  # fmt: skip
SHELL = Tool(
    "",
    "shell",
    ("step {n}: done",),
    (
        "Traceback (most recent call last):",
        '  File "/app/acme/main.py", line {n}, in <module>',
        "    main()",
        "KeyError: 'region'",
    ),
    kind="unknown",
)

# Failures of the machines and services that any tool can meet. Each is an exit status of 1.
INFRASTRUCTURE = (
    (
        "docker: Error response from daemon: toomanyrequests: You have reached your pull rate limit.",
        "See 'docker run --help'.",
    ),
    ("npm error code ETIMEDOUT", "npm error network request to https://registry.npmjs.org/react failed"),
    ("curl: (6) Could not resolve host: artifacts.acme.example",),
    ("fatal: unable to access 'https://github.com/acme/monorepo.git/': Failed to connect to port 443",),
    ("write /var/lib/docker/tmp/GetImageBlob{n}: no space left on device",),
    ("FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory", "Aborted"),
    ("./run.sh: line {n}: 4242 Killed", "The process used more memory than its limit (OOM killed)"),
)  # fmt: skip


def tool_of(command: str) -> Tool:
    """The tool that a command runs."""
    return next((tool for tool in TOOLS if tool.command in command), SHELL)


def filled(lines: tuple[str, ...], rng: Random) -> list[str]:
    """The lines with one random number in place of each `{n}`."""
    number = str(rng.randrange(2, 240))
    return [line.replace("{n}", number) for line in lines]
