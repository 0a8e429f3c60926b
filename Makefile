# The entrance to everything; `make help` lists it. Needs bash and a Python 3; the rest is set up.

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

SETUP := ./local/bootstrap.sh
PYTHON := .venv/bin/python
LOCAL := $(PYTHON) -m local
SOURCES := layers/marketdata/src functions local tests
PART ?= lambda
TESTS ?=
KILLS ?= 3000
SEED ?=
UPGRADE ?=
FN ?=
SOURCE ?= coingecko
ASSETS ?=
TOP ?=
DAYS ?=
START ?=
END ?=
INTERVAL ?=
GAPS ?=
RUN ?=
EVENT ?=

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

# --- the local stack -------------------------------------------------------------------------

.PHONY: run up down clean status refresh backfill preview cancel logs migrate rebuild build
run: ## Start the local stack, run the pipeline once, show what was loaded
	@$(SETUP) && exec $(LOCAL) run

up: ## Start the local stack without running the pipeline
	@$(SETUP) && exec $(LOCAL) up

down: ## Stop every process of the local stack; the data stays
	@if [ -x $(PYTHON) ]; then $(SETUP) dev || true; exec $(LOCAL) down; else echo "nothing is set up, so nothing runs"; fi

clean: ## Stop the local stack and remove its data, logs and builds
	@if [ -x $(PYTHON) ]; then $(SETUP) dev && exec $(LOCAL) clean; else echo "nothing is set up, so there is no state"; fi

status: ## Show the state of each part, the last run, and how the database grows
	@$(SETUP) dev && exec $(LOCAL) status

refresh: ## Run the pipeline on the stack that is up
	@$(SETUP) dev && exec $(LOCAL) refresh

backfill: ## Fetch the past: SOURCE=coingecko ASSETS=bitcoin (or TOP=50) DAYS=365 (or START=, END=)
	@$(SETUP) dev && exec $(LOCAL) backfill --source "$(SOURCE)" --assets "$(ASSETS)" --top "$(TOP)" --days "$(DAYS)" --start "$(START)" --end "$(END)" --interval "$(INTERVAL)" --gaps "$(GAPS)"

preview: ## Show what a CSV would become: FILE=prices.csv KEY= SYMBOL= CURRENCY= DATES= NUMBERS= INTERVAL=
	@$(SETUP) dev && PYTHONPATH=layers/marketdata/src exec $(LOCAL) preview --file "$(FILE)" --key "$(KEY)" --symbol "$(SYMBOL)" --asset-id "$(ASSET_ID)" --currency "$(CURRENCY)" --dates "$(DATES)" --numbers "$(NUMBERS)" --interval "$(INTERVAL)"

cancel: ## Cancel the backfill RUN=...
	@$(SETUP) dev && exec $(LOCAL) cancel "$(RUN)"

logs: ## Follow the functions' log; PART=localstack, mongod, replay, deploy, build for another
	@$(SETUP) dev && exec $(LOCAL) logs $(PART)

migrate: ## Create collections and indexes in the local database, or in MONGODB_URI's
	@$(SETUP) dev && exec $(LOCAL) migrate

rebuild: ## Make records anew from the raw batches, in the local database or in MONGODB_URI's
	@$(SETUP) dev && exec $(LOCAL) rebuild

build: ## Build functions and layers as for a deployment
	@$(SETUP) dev sam && exec $(LOCAL) build

# --- containers ------------------------------------------------------------------------------

.PHONY: compose-up compose-down compose-clean sam-api sam-invoke compose-test sam-test
compose-up: ## Start the stack in containers, or deploy to it what has changed; needs Docker
	@$(SETUP) dev && exec $(LOCAL) compose-up

compose-down: ## Stop the containers; the database stays
	@$(SETUP) dev && exec $(LOCAL) compose-down

compose-clean: ## Stop the containers and remove their volumes
	@$(SETUP) dev && exec $(LOCAL) compose-clean

sam-api: ## Serve the API by `sam local` on the stack in containers; follows edits
	@$(SETUP) dev sam && exec $(LOCAL) sam-api

sam-invoke: ## Invoke FN=extract_coingecko by `sam local` with EVENT=events/hourly.json
	@$(SETUP) dev sam && exec $(LOCAL) sam-invoke "$(FN)" "$(EVENT)"

compose-test: ## Run the pipeline's end-to-end tests against the stack in containers
	@$(SETUP) dev sam && exec ./containers/test.sh containers $(TESTS)

sam-test: ## Run the pipeline's end-to-end tests with the API under `sam local`, and the samples
	@$(SETUP) dev sam && exec ./containers/test.sh sam $(TESTS)

# --- what is generated -----------------------------------------------------------------------

.PHONY: openapi diagrams requirements
openapi: ## Write the OpenAPI document anew, from the routes
	@$(SETUP) dev && exec $(PYTHON) -m marketdata.web.openapi

diagrams: ## Draw the state machine anew in docs/architecture.md
	@$(SETUP) dev && exec $(PYTHON) -m local.diagrams

# Not requirements/localstack.txt: LocalStack 4.14.0 works only with what there was at its release.
COMPILE := .local/envs/uv/bin/uv pip compile --quiet --generate-hashes --no-header \
	--universal --python-version 3.13 $(UPGRADE)
requirements: ## Pin the packages that *.in files name; UPGRADE=--upgrade takes newer versions
	@$(SETUP) dev && $(COMPILE) layers/dependencies/requirements.in -o layers/dependencies/requirements.txt && \
	$(COMPILE) -c layers/dependencies/requirements.txt requirements/dev.in -o requirements/dev.txt && \
	for name in bootstrap mongod runtime sam; do \
	$(COMPILE) requirements/$$name.in -o requirements/$$name.txt || exit; done

# --- tests -----------------------------------------------------------------------------------
# What is in which tier: docs/development.md.

.PHONY: check test test-system crash chaos chaos-long test-long bench
check: ## Check style and types, and run the unit tests
	@$(SETUP) dev && $(MAKE) lint typecheck && exec ./local/test.sh tests/unit

test: ## Run unit tests, tests on MongoDB, and the deployed pipeline; TESTS=... runs others
	@$(SETUP) && exec ./local/test.sh $(TESTS)

test-system: ## Run the other end-to-end tests, the executor's, and the short form of chaos
	@$(SETUP) && exec ./local/test.sh tests/e2e/system tests/executor tests/chaos/short

crash: ## Kill loaders 180 times and mongod 20 times, and compare what is left
	@$(SETUP) dev mongod && exec ./local/test.sh tests/crash

# A seed repeats the choice of tests, moments and victims; it is printed first.
CHOOSE_SEED = seed=$(or $(SEED),$$RANDOM$$RANDOM) && echo "SEED=$$seed"
chaos: ## Break the whole stack: a sample of chaos-long, another one each time; SEED=... repeats one
	@$(SETUP) && $(CHOOSE_SEED) && CHAOS_SEED=$$seed CHAOS_SAMPLE=yes exec ./local/test.sh tests/chaos/long

chaos-long: ## Break the whole stack again and again: kills, lost networks, stolen leases
	@$(SETUP) && $(CHOOSE_SEED) && CHAOS_SEED=$$seed exec ./local/test.sh tests/chaos/long

test-long: ## Kill loaders KILLS times and mongod a tenth as often, and cut a file of 1 GiB
	@$(SETUP) dev mongod && $(CHOOSE_SEED) && \
	CRASH_SEED=$$seed CRASH_KILLS=$(KILLS) CRASH_MONGOD_KILLS=$$(( ($(KILLS) + 9) / 10 )) \
	MEMORY_STREAM_MIB=1024 exec ./local/test.sh -rP tests/crash tests/integration/functions/test_memory.py

bench: ## Measure; needs an idle machine
	@$(SETUP) && exec ./local/test.sh tests/bench -s --numprocesses 0

# --- checks ----------------------------------------------------------------------------------

.PHONY: lint lint-workflows typecheck format hooks validate
lint: ## Check style and formatting, also of the workflows
	@$(SETUP) dev && .venv/bin/ruff check . && .venv/bin/ruff format --check . && $(MAKE) lint-workflows

SCHEMA := .venv/bin/check-jsonschema --quiet --builtin-schema vendor
lint-workflows:
	@$(SCHEMA).github-workflows .github/workflows/*.yml && \
	$(SCHEMA).github-actions .github/actions/*/action.yml && \
	$(SCHEMA).dependabot .github/dependabot.yml && \
	.venv/bin/zizmor --offline --quiet --no-progress .github

typecheck: ## Check types
	@$(SETUP) dev && $(PYTHON) -m mypy $(SOURCES)

format: ## Format the code and mend what can be mended
	@$(SETUP) dev && .venv/bin/ruff check --fix . ; .venv/bin/ruff format .

hooks: ## Have git check each commit: style, types, its subject
	@$(SETUP) dev && exec .venv/bin/pre-commit install

validate: ## Check the template
	@$(SETUP) dev sam && exec $(LOCAL) validate

# --- AWS -------------------------------------------------------------------------------------

.PHONY: deploy
deploy: ## Deploy to AWS: ENV=dev or ENV=prod, MONGODB_URI for the migrations
	@$(SETUP) dev sam && exec $(LOCAL) deploy "$(ENV)"
