# `make run` and `make test` need a Python from 3.11 on and nothing else; `make help` lists the rest.
# Paths are relative throughout, so a checkout whose path has spaces works.

PYTHON ?= python3
# Where `make run` keeps its objects, and further options of `gestalt-cas serve` for it: make run ARGS="--log-format json"
DATA_DIR ?= .data
ARGS ?=
# Passed to pytest: make test TESTS="tests/test_ranges.py -q"
TESTS ?=
# Passed to the benchmarks: make bench BENCH="--dir .build/bench" keeps the stores for later runs, BENCH="writes reads"
# runs those alone; make soak SOAK="--seconds 60".
BENCH ?=
# Passed to the campaigns: make kill KILL="--seed 7", make histories HISTORIES="--seed 7",
# make interleavings INTERLEAVINGS="copy 'rollback to a snapshot'" for some scenarios alone, make mutation MUTATION=ranges.
INTERLEAVINGS ?=
KILL ?=
HISTORIES ?=
MUTATION ?=
SOAK ?=
# Passed to the matrix of SDK releases: make sdk-matrix SDKS="a8 a29 --json"; SDKS=ci are those that the tests run.
SDKS ?=
# The interpreters for `make pythons`, by name or path.
PYTHONS ?= python3.11 python3.12 python3.13 python3.14 python3.15

VENV := .venv
BIN := $(VENV)/bin
# What stands in a stamp is the pyproject.toml that was installed, so a mere change of dates installs nothing.
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
PIP := $(BIN)/python -m pip --disable-pip-version-check
PROTO_VENV := .build/proto

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help install install-dev run test coverage interleavings mutation kill histories faults crash check format bench bench-large soak proto
.PHONY: clean explore pythons sdk-matrix executable executables bench-executable

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## make .venv and install the package into it

install-dev: $(INSTALLED_DEV) ## the same with all that the tests need

run: $(INSTALLED) ## serve the store in .data until stopped
	@exec $(BIN)/gestalt-cas serve --data-dir "$(DATA_DIR)" $(ARGS)

# One test at a time more than there are cores, each file in one process, since its tests share servers and what is built
# for them, and in the order of tests/conftest.py; JOBS=0 runs them one after the other.
JOBS ?= auto
test: $(INSTALLED_DEV) ## run every test
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTS)

# The commit path, from the staged body to COMMIT and back, and what removes payloads. Their tests alone must reach every
# branch of them.
COMMIT_PATH := files/blobs files/staging keeping/quotas operations/allowances operations/batches operations/changes \
  operations/heartbeats operations/intake operations/payloads rows/blob_rows rows/inlined rows/rollback_rows \
  rows/version_ids rows/version_rows rows/version_walks rows/versions rules/chunks sql/statements store \
  time_travel/rollback time_travel/rollback_plans transactions/answers transactions/commits \
  transactions/connections transactions/database transactions/database_faults transactions/readers \
  transactions/wal_file
REMOVAL := keeping/pins keeping/reachability keeping/removals keeping/retention removal/* rows/snapshots
empty :=
comma := ,
MUST_BE_COVERED := $(subst $(empty) $(empty),$(comma),$(patsubst %,gestalt_cas/%.py,$(COMMIT_PATH) $(REMOVAL)))
coverage: $(INSTALLED_DEV) ## branch coverage of the commit path and of removal (about 2 minutes)
	@$(BIN)/python -m pytest -q -n $(JOBS) --cov --cov-report= $(patsubst %,tests/test_%.py,batches blobs checking checkpoints chunks \
	  clock_guard commits damage database database_closing database_faults file_sizes garbage heartbeats holds horizons \
	  inlined parts past pins purging quotas reachability removals reserve retention retention_model retention_runs \
	  rollback settings sqlite stamps statements statistics store strays trust version_walks versions wal_file want_of_memory wrong_values)
	@$(BIN)/python -m coverage report --include=$(MUST_BE_COVERED) --fail-under=100

# A sample of these is among the tests; see tests/interleavings/__init__.py.
interleavings: $(INSTALLED_DEV) ## uploads, reads, backups and more beside gc in every order of their steps (90 to 105 minutes)
	@PYTHONPATH=tests $(BIN)/python -m interleavings all $(INTERLEAVINGS)

# A sample of these is among the tests. MUTATION="ranges" judges one module alone, MUTATION="--only walk" the mutants whose
# name has that word, MUTATION="--from 1 --to 200" a piece.
mutation: $(INSTALLED_DEV) ## do the tests notice each wrong expression in eight modules? (about 25 minutes)
	@PYTHONPATH=tests $(BIN)/python -m mutation $(MUTATION)

kill: $(INSTALLED_DEV) ## kill -9 of the server under load, one process and two, 300 rounds each (about 30 minutes)
	@PYTHONPATH=tests $(BIN)/python -m kills.campaign --rounds 300 --processes 1 $(KILL)
	@PYTHONPATH=tests $(BIN)/python -m kills.campaign --rounds 300 --processes 2 $(KILL)

histories: $(INSTALLED_DEV) ## linearizability beside upkeep and kills, 10 histories of 45 seconds (about 12 minutes)
	@PYTHONPATH=tests $(BIN)/python -m histories.harness --runs 10 --seconds 45 --kills 6 $(HISTORIES)

faults: $(INSTALLED_DEV) ## every operation with the disk failing it at every point (about 10 minutes)
	@FAULTS_STRIDE=1 $(BIN)/python -m pytest -n $(JOBS) -q tests/test_faults.py tests/test_faults_served.py

sdk-matrix: $(INSTALLED_DEV) ## the provider under all published SDK releases (about 10 minutes; needs a package index)
	@PYTHONPATH=tests $(BIN)/python -m sdks.matrix $(SDKS)

# One that is not there fails the target: what pyproject.toml declares is what was run.
CORE := tests/test_contract_*.py $(patsubst %,tests/test_%.py,batches host parts past removals retention retention_runs rollback \
  settings store trust versions)
pythons: $(INSTALLED_DEV) ## the core tests under each of PYTHONS (2 to 5 minutes each)
	@set -e; for python in $(PYTHONS); do \
	  place=".build/pythons/$$(echo "$$python" | tr / _)"; \
	  cmp -s pyproject.toml "$$place/.installed" || { \
	    "$$python" -m venv --clear --without-pip "$$place"; \
	    $(PIP) --python "$$place/bin/python" install --quiet --editable '.[dev]' && $(call newer_typing,$$place/bin/python); \
	    cp pyproject.toml "$$place/.installed"; }; \
	  "$$place/bin/python" --version; \
	  "$$place/bin/python" -m pytest -q -n $(JOBS) $(CORE); \
	done

explore: $(INSTALLED_DEV) ## the conformance kit's random sequences against our own provider, both generations (about 2 hours)
	@mkdir -p .build && echo '{"dataDir": "{directory}"}' > .build/explore.json
	@$(BIN)/gestalt-cas conformance --exec '$(BIN)/gestalt-cas provider' --config .build/explore.json --capability all \
		--bucketed --bucketless --explore $(PROFILE) --seed $(SEED)

check: $(INSTALLED_DEV) ## lint, format check and strict types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@test -x $(BIN)/mypy || { echo "mypy cannot be installed beside the SDK on Python 3.15 (it asks for a later" \
	  "typing-extensions); check types in an environment of an earlier one: make check PYTHON=python3.14" >&2; exit 1; }
	@$(BIN)/mypy

format: $(INSTALLED_DEV) ## rewrite the sources as `make check` wants them
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(INSTALLED_DEV) ## measure everything against its goals, 1,000,000 objects (about 20 minutes; 6 GB of disk)
	@$(BIN)/python -m benchmarks $(BENCH)

bench-large: $(INSTALLED_DEV) ## what may grow with the store, at 10,000,000 objects (about an hour; 8 GB of disk)
	@$(BIN)/python -m benchmarks calls listing growth start disk --keys 10000000 $(BENCH)

soak: $(INSTALLED_DEV) ## mixed load for 10 minutes: memory, open files and WAL must stay flat
	@$(BIN)/python -m benchmarks.soak $(SOAK)

# Distinct disk states of the long campaign, and the seed of those that are drawn: make crash STATES=5000 SEED=7
STATES ?= 30000
SEED ?= 1
PROFILE ?= thorough
crash: $(INSTALLED_DEV) ## judge 30,000 disk states that a crash may leave, and leave out each sync in turn (about 6 minutes on 2 free cores)
	@PYTHONPATH=tests:. $(BIN)/python -m crash.campaign --states $(STATES) --seed $(SEED)
	@PYTHONPATH=tests:. $(BIN)/python -m crash.campaign --sites --seed $(SEED)

# For the system and processor of this machine; what is built needs no Python there.
executable: $(INSTALLED_DEV) ## build one executable of provider and SDK, .gestaltd/bin/cas (about 40 seconds)
	@$(BIN)/gestalt build
	@ls -lh .gestaltd/bin/cas

bench-executable: executable ## its size, the time until it serves and its memory (half a minute)
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.executable

executables: $(INSTALLED_DEV) ## build it from a checkout and from the wheel, and test both (about 2 minutes)
	@EXECUTABLES=all $(BIN)/python -m pytest -q tests/test_executable.py

# Generated code runs on the protobuf it was generated for and on the next major version. grpcio-tools 1.76.0 writes for
# 6.31.1, which suits all that pyproject.toml allows (6.33.1 up to 8). An environment of its own, since grpcio-tools holds
# protobuf below 7.
proto: $(PROTO_VENV)/.installed ## generate wire_pb2.py anew from wire.proto
	$(PROTO_VENV)/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. gestalt_cas/wire.proto

clean: ## remove what make made, except the data
	rm -rf $(VENV) .build build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache .coverage .coverage.*
	find gestalt_cas migrations tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is begun anew when its Python has gone; one without pip (half made, or made by uv) gets it.
define make_venv
@test -x $(BIN)/python || { \
  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
    echo "gestalt-cas needs Python 3.11 or later; '$(PYTHON) --version' says: $$($(PYTHON) --version 2>&1)" >&2; \
    echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }; \
  $(PYTHON) -m venv --clear $(VENV); }
@$(PIP) --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
endef

# $(call newer_typing,PYTHON): every release of the SDK pins a typing-extensions that Python 3.15 cannot import; a later
# one serves the SDK as well. (Where pip alone installs, the package itself sees to it, but not the SDK's own commands.)
newer_typing = { "$(1)" -c 'import typing_extensions' 2>/dev/null || \
  $(PIP) --python "$(1)" install -qqq --no-deps --upgrade typing-extensions; }

# $(call pip_install,REQUIREMENT) unless this very pyproject.toml is installed.
define pip_install
@cmp -s pyproject.toml $@ || { \
  echo "Installing gestalt-cas and what it needs into $(VENV); later starts skip this." >&2; \
  $(PIP) install --quiet --editable '$(1)' && $(call newer_typing,$(BIN)/python); }
@cp pyproject.toml $@
endef

$(INSTALLED): pyproject.toml
	$(make_venv)
	$(call pip_install,.)

$(INSTALLED_DEV): pyproject.toml
	$(make_venv)
	$(call pip_install,.[dev])
	@cp pyproject.toml $(INSTALLED)

$(PROTO_VENV)/.installed: Makefile
	@$(PYTHON) -m venv --clear $(PROTO_VENV)
	@$(PROTO_VENV)/bin/python -m pip --disable-pip-version-check install --quiet grpcio-tools==1.76.0
	@touch $@
