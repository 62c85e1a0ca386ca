# `make` explains the targets. Everything they make lies in this folder and is gitignored.

SHELL := bash
.DEFAULT_GOAL := help
PYTHON ?= python3
PORT ?= 3000
# The other ports of the demo: by default those of mirrors/demo.yaml, 5055 and 7007.
ECR_PORT ?=
BACKSTAGE_PORT ?=
BIN := .venv/bin
# Backstage's pages, and all that they are built from.
PLUGINS := backstage/plugins
PAGES := $(PLUGINS)/app/dist/index.html
PAGES_FROM := $(wildcard $(PLUGINS)/*.json $(PLUGINS)/*/package.json $(PLUGINS)/*/src/* \
  $(PLUGINS)/app/*.yaml $(PLUGINS)/app/public/*)
# `make test ARGS="-k guard"` runs a part, of all tests.
ARGS ?=
# One more than the cores of a small machine: many tests wait.
WORKERS ?= 3

.PHONY: help setup run backstage-ui test test-all test-ui bench lint fmt lock schemas clean

help: ## Explain the targets
	@echo "Usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## Install everything into .venv (the other targets do it first)

run: .venv/ready ## Run the demo; takes PORT (3000), ECR_PORT (5055), BACKSTAGE_PORT (7007)
	@exec $(BIN)/ecr-catalog demo run --port $(PORT) \
	  $(if $(ECR_PORT),--ecr-port $(ECR_PORT)) \
	  $(if $(BACKSTAGE_PORT),--backstage-port $(BACKSTAGE_PORT))

backstage-ui: ## Build Backstage's pages with the card; `make run` then serves them
	@command -v npm >/dev/null || { echo "Node is missing: install Node 20 or newer with npm first"; exit 1; }
	@$(MAKE) --no-print-directory $(PAGES)
	@echo "Built: make run serves Backstage's pages. The plugin for a Backstage of yours:"
	@ls $(PLUGINS)/backstage-plugin-ecr-catalog-*.tgz

ifdef ARGS
test: .venv/ready backstage/node_modules/.package-lock.json lint
	$(BIN)/pytest $(ARGS)
else
test: .venv/ready backstage/node_modules/.package-lock.json lint ## Lint, check types, run the tests that take seconds
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not full" tests/e2e tests/integration tests/unit
	@echo "Left out: fault drills, the soak, whole demos and other slow tests. Run them with: make test-all"
endif

# In this order: the files that take longest begin first.
test-all: .venv/ready backstage/node_modules/.package-lock.json $(PAGES) test-ui ## Run what make test leaves out
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m full \
	  tests/drills tests/e2e tests/integration tests/unit
	$(BIN)/pytest -n $(WORKERS) --dist worksteal --postgres -m "history and not full" tests/integration

bench: .venv/ready ## Measure a tick beside a bare listing of the registry; takes minutes
	$(BIN)/python -m benchmarks.listing $(ARGS)

test-ui: $(PLUGINS)/node_modules/.package-lock.json ## Check types and run the tests of the Backstage plugin
	@if command -v npm >/dev/null; then cd $(PLUGINS) && npm run check; \
	else echo "Node is missing: the tests of the Backstage plugin are skipped"; test -z "$$ECR_CATALOG_REQUIRE_ALL"; fi

lint: .venv/ready ## Check style and types; change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: .venv/ready ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: .venv/ready ## Pin the newest dependencies in requirements.lock
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal \
	  --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade \
	  --no-emit-index-url --quiet --output-file requirements.lock

schemas: .venv/ready ## Generate the JSON Schemas in schemas/ from the models
	$(BIN)/ecr-catalog schema mirror > schemas/mirror.schema.json
	$(BIN)/ecr-catalog schema mirror --defaults > schemas/mirror-defaults.schema.json
	$(BIN)/ecr-catalog schema governance > schemas/ecr-catalog.schema.json
	$(BIN)/ecr-catalog schema governance --strict > schemas/ecr-catalog.strict.schema.json

clean: ## Remove all that the other targets made, the demo and its history included
	rm -rf .venv .demo history schedules storage cache logs dist .telemetry .logs_queue \
	  backstage/node_modules $(PLUGINS)/node_modules $(PLUGINS)/dist-types $(PLUGINS)/*.tgz \
	  $(PLUGINS)/*/dist $(PLUGINS)/*/node_modules \
	  .mypy_cache .pytest_cache .ruff_cache .hypothesis

# A real Backstage for the tests that ask one; without Node they are skipped, and say so.
backstage/node_modules/.package-lock.json: backstage/package-lock.json
	@if command -v npm >/dev/null; then \
	  echo "Installing Backstage (once, 1 to 4 minutes) ..."; \
	  cd backstage && npm ci --no-audit --no-fund --loglevel=error && touch node_modules/.package-lock.json; \
	else echo "Node is missing: the tests against a real Backstage will be skipped"; fi

# Backstage's pages and the plugin's tests; without Node they are skipped, and say so.
$(PLUGINS)/node_modules/.package-lock.json: $(PLUGINS)/package-lock.json
	@if command -v npm >/dev/null; then \
	  echo "Installing what builds Backstage's pages (once, 900 MB, 1 to 6 minutes) ..."; \
	  cd $(PLUGINS) && npm ci --loglevel=error && touch node_modules/.package-lock.json; \
	else echo "Node is missing: the tests of Backstage's pages will be skipped"; fi

$(PAGES): $(PLUGINS)/node_modules/.package-lock.json $(PAGES_FROM)
	@if command -v npm >/dev/null; then \
	  echo "Building the plugin and Backstage's pages (half a minute to two) ..."; \
	  cd $(PLUGINS) && npm run app; fi

# uv comes into the .venv by pip, pinned and checked like the rest, and installs the lock.
.venv/ready: requirements.lock pyproject.toml
	@command -v git >/dev/null || { echo "git is missing: install it first"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up .venv ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@awk '/^[^ ]/ {keep = /^uv==/} keep' requirements.lock > .venv/uv.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@
