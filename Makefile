# `make demo` and `make test` work on a fresh clone: they make .venv and fill it first.
# Needs make and Python 3.11, 3.12 or 3.13; PYTHON=/path/to/python names one.

VENV := .venv
BIN := $(VENV)/bin
# What the program needs, and what tests and checks need besides.
READY := $(VENV)/.ready
DEV_READY := $(VENV)/.ready-dev
FITS := -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p $(FITS) && echo $$p && break; done)
PORT ?= 3000
UNFETCHED = { echo "Packages could not be fetched. Is there a network? Behind a proxy set HTTPS_PROXY;\
 an index of your own is PIP_INDEX_URL and UV_DEFAULT_INDEX." >&2; exit 1; }
UV_VERSION := $(shell sed -n 's/^uv==\([^ ]*\).*/\1/p' requirements.lock)

export DAGSTER_HOME ?= $(CURDIR)/.dagster

COMPILE = $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --quiet
# What the container image has besides.
IMAGE_EXTRAS := --extra grpc --extra mcp --extra postgres --extra slack
SYNC = $(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python
INSTALL = $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python -e .

.PHONY: help
help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: demo
demo: $(READY) ## The whole way on stand-ins: no account, no server
	@$(BIN)/bk-pipeline demo --keep .demo

.PHONY: test
test: $(DEV_READY) ## The tests, on real servers on loopback
	@$(BIN)/pytest -n 3 -m "not interop and not collector"

.PHONY: interop
interop: $(DEV_READY) ## Whether the Collector's decoder, Compose, BuildKit and Prometheus read what is made (needs Go)
	@BK_PIPELINE_TEST_PROGRAMS=required $(BIN)/pytest -q -m interop bk_pipeline_tests/interop

# A Collector of one release, with the parts that examples/collector uses.
COLLECTOR := $(VENV)/collector/otelcol
BUILDER := go.opentelemetry.io/collector/cmd/builder@v0.148.0

.PHONY: collector
collector: $(DEV_READY) $(COLLECTOR) ## The examples for the OpenTelemetry Collector, in a Collector built for it (needs Go; minutes)
	@BK_PIPELINE_TEST_COLLECTOR=$(CURDIR)/$(COLLECTOR) $(BIN)/pytest -q -m collector bk_pipeline_tests/interop

$(COLLECTOR): bk_pipeline_tests/interop/collector.yaml $(READY)
	@CGO_ENABLED=0 go run $(BUILDER) --config $<

# Time zone and date at which a run begins: a Sunday night on which clocks change, the end of a
# leap day, the start of summer time, a year ahead.
DATES ?= UTC@2027-10-31T00:58:00 UTC@2028-02-29T23:59:30 Europe/Berlin@2027-03-28T01:59:30 \
	America/New_York@2027-11-26T12:00:00

# The code of these takes the time from its caller, and their tests give it a fixed one.
WITHOUT_CLOCK := analysis deliver sources spans cli/test_honeycomb.py cli/test_privacy_routes.py

.PHONY: test-any-day
test-any-day: $(DEV_READY) $(VENV)/wall_clock.so ## The tests that see a clock, as if at each of DATES (needs cc)
	@for at in $(DATES); do echo "As if it were $$at:"; export TZ=$${at%@*}; \
	LD_PRELOAD=$(CURDIR)/$(VENV)/wall_clock.so \
	WALL_CLOCK_SHIFT_S=$$(($$(date -d $${at#*@} +%s) - $$(date +%s))) \
	$(BIN)/pytest -q -n 3 -m "not browser and not image and not interop and not collector" \
	$(or $(TESTS),$(WITHOUT_CLOCK:%=--ignore=bk_pipeline_tests/%)) || exit 1; done

$(VENV)/wall_clock.so: bk_pipeline_tests/wall_clock.c $(READY)
	@$(CC) -shared -fPIC -O1 -o $@ $< -ldl

.PHONY: bench
bench: $(DEV_READY) ## What it costs beside the obvious ways: tables, and figures in benchmarks/latest.json
	@$(BIN)/python -m benchmarks

.PHONY: fault-table
fault-table: $(DEV_READY) ## What faults cost in spans, measured, into docs/operating.md
	@$(BIN)/python -m benchmarks.faults

.PHONY: site
site: $(DEV_READY) ## The documentation as a site, in .site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: dev
dev: $(READY) ## The Dagster UI on http://127.0.0.1:3000, or PORT=, with .env
	@$(BIN)/python -c 'import socket; socket.create_server(("127.0.0.1", $(PORT)))' 2>/dev/null || \
	{ echo "Port $(PORT) is taken, perhaps by another make dev: end that, or make dev PORT=3001" >&2; exit 1; }
	@$(BIN)/python -m bk_pipeline.defs.dev -h 127.0.0.1 -p $(PORT)

.PHONY: check
check: lint types layers words docs-check test ## What CI runs: format, lint, types, import directions, words, docs, tests

.PHONY: lint
lint: $(DEV_READY) ## Format and lint, changing nothing
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check

.PHONY: types
types: $(DEV_READY) ## mypy, strict
	@$(BIN)/mypy

.PHONY: layers
layers: $(DEV_READY) ## Imports point one way
	@$(BIN)/lint-imports

.PHONY: words
words: $(DEV_READY) ## No retired words in names and prose
	@$(BIN)/python .ci/words.py

.PHONY: docs
docs: $(DEV_READY) ## Write the generated pages of docs/
	@$(BIN)/python -m bk_pipeline.docsgen

.PHONY: dashboards
dashboards: $(DEV_READY) ## Write the dashboards for Grafana
	@$(BIN)/python -m bk_pipeline.dashboards

.PHONY: docs-check
docs-check: $(DEV_READY)
	@$(BIN)/python -m bk_pipeline.docsgen --check
	@$(BIN)/python -m bk_pipeline.dashboards --check

.PHONY: golden
golden: $(DEV_READY) ## Write the golden spans and the snapshot of definitions, to be reviewed as a diff
	@$(BIN)/python -m bk_pipeline_tests.spans.goldens
	@$(BIN)/python -m bk_pipeline_tests.sources.goldens
	@$(BIN)/python -m bk_pipeline_tests.sources.artifact_goldens
	@$(BIN)/python -m bk_pipeline_tests.defs.snapshot

.PHONY: screenshots
screenshots: $(DEV_READY) ## Pictures of reports and Dagster's UI into .screenshots/, and those that docs use into docs/images/ (needs Chromium)
	@BK_PIPELINE_TEST_PROGRAMS=required BK_PIPELINE_TEST_PICTURES=$(CURDIR)/.screenshots \
		$(BIN)/pytest -q bk_pipeline_tests/browser
	@for one in docs/images/*.png; do cp .screenshots/$${one##*/} $$one; done

.PHONY: format
format: $(DEV_READY) ## Format and fix what can be fixed
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

.PHONY: lock
lock: $(DEV_READY) ## Newest versions that pyproject.toml allows, into requirements.lock
	@$(COMPILE) --group dev --upgrade pyproject.toml -o requirements-dev.lock
	@$(COMPILE) --group build --upgrade pyproject.toml -c requirements-dev.lock -o requirements.lock
	@$(COMPILE) --group build -c requirements-dev.lock -o deploy/build.lock
	@$(COMPILE) $(IMAGE_EXTRAS) pyproject.toml -c requirements-dev.lock -o deploy/runtime.lock

.PHONY: clean
clean: ## Remove .venv and caches; data stay
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" && "$(PYTHON)" $(FITS) || { echo "$(or $(PYTHON),Nothing on the PATH) is \
	no Python 3.11, 3.12 or 3.13: install one, or give PYTHON=/path/to/it" >&2; exit 1; }
	@echo "Setting up $(VENV): a minute or two"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) || $(UNFETCHED)
	@$(SYNC) requirements.lock || $(UNFETCHED)
	@$(INSTALL)
	@touch $@

$(DEV_READY): $(READY) requirements-dev.lock
	@echo "Adding what tests and checks need"
	@$(SYNC) requirements-dev.lock || $(UNFETCHED)
	@$(INSTALL)
	@touch $@
