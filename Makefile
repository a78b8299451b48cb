# The front door: `make help` lists what there is.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# On Linux, PyPI's torch brings gigabytes of CUDA; this index has CPU builds, and where it cannot be
# reached pip goes on without it. To install another build: make setup TORCH_ARGS="...".
TORCH_ARGS ?= --extra-index-url https://download.pytorch.org/whl/cpu
SETUP := $(VENV)/.set-up
PACKAGES := shared/corepress services/intake services/fetch services/normalize services/compile services/publish

.DEFAULT_GOAL := help
.PHONY: help setup demo run fleet-local test servers lint types imports format bench fleet-check matrix broker-matrix deploy-check clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

setup: $(SETUP) ## make the virtual environment with everything in it

$(SETUP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --no-deps $(TORCH_ARGS) torch==2.13.0
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(SETUP) ## make a small checkpoint, convert it, show the bundle and its figures
	$(BIN)/python tests/demo.py build/demo

run: $(SETUP) ## convert SOURCE under RECIPE to OUT: make run SOURCE=model.safetensors
	$(BIN)/corepress run "$(SOURCE)" --recipe $(or $(RECIPE),original) --out $(or $(OUT),bundles)

fleet-local: $(SETUP) servers ## RabbitMQ, an S3 server and workers on this machine, until Ctrl-C
	$(BIN)/python tests/fleet_local.py build/fleet

test: $(SETUP) lint types imports servers ## all checks and tests
	$(BIN)/pytest --numprocesses auto --dist loadfile

servers: ## install the servers that tests run against: apt on Debian
	tests/servers/install.sh

# SUITE: trixie has RabbitMQ 4.0, sid the newest
broker-matrix: $(SETUP) servers ## tests against the RabbitMQ of a Debian suite: make broker-matrix SUITE=trixie
	tests/servers/rabbitmq_of.sh $(or $(SUITE),trixie) build/rabbitmq-$(or $(SUITE),trixie)
	COREPRESS_RABBITMQ_SERVER=build/rabbitmq-$(or $(SUITE),trixie)/rabbitmq-server $(BIN)/pytest \
		tests/contract/test_rabbitmq_bus.py tests/contract/test_drop_folder.py tests/contract/test_intake.py \
		tests/integration/test_worker_timeout.py

lint: $(SETUP) ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(SETUP) ## mypy, strict
	$(BIN)/mypy

imports: $(SETUP) ## the direction of imports
	$(BIN)/lint-imports

format: $(SETUP) ## let ruff format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(SETUP) ## the benchmarks, full size: needs 35 GB of disk and more than an hour
	$(BIN)/python tests/bench/bench_normalize.py
	$(BIN)/python tests/bench/bench_convert.py
	$(BIN)/python tests/bench/bench_pipeline.py
	$(BIN)/python tests/bench/bench_fleet_file.py
	$(BIN)/python tests/bench/bench_status.py
	$(BIN)/python tests/bench/bench_hops.py
	$(BIN)/python tests/bench/bench_sharing.py
	$(BIN)/python tests/bench/bench_chaos.py

fleet-check: $(SETUP) servers ## every tiny fixture through a fleet, submitted in all three ways
	$(BIN)/python tests/bench/fleet_check.py

matrix: $(SETUP) ## open what we write with old and new diffusers; takes minutes
	$(BIN)/python tests/matrix/matrix.py

deploy-check: $(SETUP) ## what deploy/ holds, and each service's own environment from the package index
	$(BIN)/pytest tests/unit/test_containers.py tests/unit/test_launchd.py tests/unit/test_requirements.py
	tests/deploy/environments.sh $(BIN)/python

clean: ## remove what the targets made
	rm -rf $(VENV) build dist
