# Liveroll: `make demo` runs it, `make test` checks it; both set up what they need in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PROTOS := $(sort $(wildcard protos/liveroll/v1/*.proto))
SCENARIO ?= rollout
SEEDS  ?= 200
MINUTES ?= 10
PYTEST := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n auto --dist loadgroup
MEASURED := tests/unit tests/property tests/scenarios tests/contract

.DEFAULT_GOAL := help
.PHONY: help install demo test coverage lint protos protos-check buf docs bench bench-lab sim mutants soak lab test-lab clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[dev]'
	@touch $@

install: $(STAMP) ## set up .venv with everything

demo: $(STAMP) ## run a whole rollout over 24 emulated nodes (SCENARIO=bad-kernel, rfc-v2; KEEP=1)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m deploy.demo --scenario $(SCENARIO) $(if $(KEEP),--keep)

lint: $(STAMP) ## style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy orchestrator node_agent deploy
	$(BIN)/lint-imports

protos: $(STAMP) ## regenerate the code of protos/
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=protos --pyi_out=protos --grpc_python_out=protos $(PROTOS)

protos-check: $(STAMP) ## is the generated code what the .proto files say?
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && \
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=$$tmp --pyi_out=$$tmp --grpc_python_out=$$tmp $(PROTOS) && \
	for f in $$(cd $$tmp && find . -name '*_pb2*'); do diff -u protos/$$f $$tmp/$$f || exit 1; done && echo "generated code is up to date"

buf: ## lint the .proto files with buf (needs npm)
	@test -x $(VENV)/buf/node_modules/.bin/buf || npm install --silent --no-fund --no-audit --prefix $(VENV)/buf @bufbuild/buf@^1
	cd protos && ../$(VENV)/buf/node_modules/.bin/buf lint && echo "buf has nothing to say"

docs: $(STAMP) ## regenerate the pages that come from tables
	$(BIN)/python -m node_agent.core.diagram > docs/state-machines.md

test: $(STAMP) lint protos-check coverage ## everything that must hold
	$(PYTEST) tests $(MEASURED:%=--ignore=%)

coverage: $(STAMP) ## the tests without processes; every branch of both core packages must be reached
	$(PYTEST) --cov=orchestrator/core --cov=node_agent/core --cov-branch --cov-fail-under=100 \
	    --cov-report=term-missing:skip-covered $(MEASURED)

sim: $(STAMP) ## search for a failing schedule: make sim SEEDS=10000
	$(BIN)/python -m tests.sim --seeds $(SEEDS)

mutants: $(STAMP) ## search a killing seed for every deliberate mistake (SEEDS=60, MUTANTS="a b", RECORD=1)
	$(BIN)/python -m tests.sim.search $(MUTANTS) $(if $(filter file,$(origin SEEDS)),,--seeds $(SEEDS)) $(if $(RECORD),--record)

soak: $(STAMP) ## 200 nodes of both models, three replicas on PostgreSQL, random kills (MINUTES=10, SEED=, NODES=)
	$(BIN)/python -m tests.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(NODES),--nodes $(NODES))

bench: $(STAMP) ## throughput and cost, beside raw limits measured in the same run
	$(BIN)/python -m tests.bench

# Without root the lab cannot be built, and where nothing installs QEMU there is none; all else is a failure.
test-lab: $(STAMP) ## real kernels in QEMU prove the live update (root, Debian; builds the lab if it is not there)
	@if [ "$$(id -u)" != 0 ]; then echo "test-lab is skipped: the lab is built by root"; exit 0; fi; \
	if ! command -v qemu-system-x86_64 >/dev/null && ! command -v apt-get >/dev/null; then \
	    echo "test-lab is skipped: there is no qemu-system-x86_64"; exit 0; fi; \
	$(BIN)/python -m deploy.lab.build && \
	LIVEROLL_LAB=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2 --dist loadfile -m lab tests/lab tests/contract

bench-lab: $(STAMP) ## blackouts of real kernels in QEMU beside a bare kexec (after make lab; some minutes)
	@$(BIN)/python -m tests.bench lab

lab: $(STAMP) ## build the lab's kernels and guest root (root, Debian; KERNELS=a,b, REFRESH=1)
	@$(BIN)/python -m deploy.lab.build $(if $(KERNELS),--kernels $(KERNELS)) $(if $(REFRESH),--refresh)

clean: ## remove what was built
	rm -rf $(VENV) demo-state .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
