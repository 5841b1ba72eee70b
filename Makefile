# Every command that the README names. Each target installs what it needs.

PYTHON ?= python3
VENV := .venv
CHAOS_VENV := .venv-chaos
NODES_VENV := .venv-nodes
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Percent of lines and branches that the unit tests alone reach; integration and stack tests reach more. A point lower than
# what they reach today, since random examples reach a few lines more or fewer.
COVERAGE := 61
# Files in the order in which they stand: sorted by size they alternate between packages, which each set up an Airflow.
ON_EACH_CORE := --numprocesses 2 --dist loadfile --no-loadscope-reorder
LOCKED := requirements/bootstrap.txt requirements/requirements.txt

# Other releases of Airflow, each with a Python that it is run with: a lock for each pair, and `make test-on` for its tests.
PAIRS := 3.1-py3.12 3.2-py3.12 3.3-py3.13 3.4-py3.13
PAIR := $(AIRFLOW)-py$(PYTHON)
PAIR_LOCK := requirements/airflow-$(PAIR).txt
PAIR_VENV := .venv-$(AIRFLOW)-$(PYTHON)
# What is run there: all that needs no whole Airflow, and with STACK=1 the three pipelines on one as well.
PAIR_TESTS := tests/unit tests/integration $(if $(STACK),tests/stack/pipelines/test_pipelines.py)

.PHONY: demo demo-check demo-set demo-clean demo-receiver-on demo-receiver-off demo-trouble test test-integration test-stack test-on start pairs matrix check chaos nodes nodes-short format lock clean help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

demo: $(INSTALLED) ## Start the demo, and stop it with Ctrl-C
	@$(BIN)/python -m demo up

demo-check: $(INSTALLED) ## Run the three pipelines without a person, and compare ledger and witness
	@$(BIN)/python -m demo check

ITEMS := 2000
demo-set: $(INSTALLED) ## Run a set of many tickets (make demo-set ITEMS=50), and watch it
	@$(BIN)/python -m demo set --items $(ITEMS)

demo-clean: $(INSTALLED) ## Remove the data of the demo
	@$(BIN)/python -m demo clean

demo-receiver-off: ## Stop the receiver of webhooks of the running demo: it polls OpenAI instead
	@$(BIN)/python -m demo receiver-off

demo-receiver-on: ## Start the receiver of webhooks again
	@$(BIN)/python -m demo receiver-on

demo-trouble: $(INSTALLED) ## Make one of each kind of incident in the running demo, to practise
	@$(BIN)/python -m demo incidents

test: check test-integration test-stack ## Run every test, also those on a real Airflow

test-integration: $(INSTALLED) ## Run the tests on a real PostgreSQL
	$(BIN)/python -m pytest $(ON_EACH_CORE) tests/integration

test-stack: $(INSTALLED) ## Run the tests on a real Airflow
	$(BIN)/python -m pytest tests/stack

test-on: ## Run the tests on another Airflow and Python (make test-on AIRFLOW=3.1 PYTHON=3.12; with STACK=1 also the pipelines)
	@test -f $(PAIR_LOCK) || { echo "There is no lock for Airflow $(AIRFLOW) with Python $(PYTHON). There are: $(PAIRS)"; exit 1; }
	@$(MAKE) --no-print-directory $(PAIR_VENV)/.installed AIRFLOW=$(AIRFLOW) PYTHON=$(PYTHON)
	$(PAIR_VENV)/bin/python -m pytest $(ON_EACH_CORE) $(PAIR_TESTS)

start: ## Walk docs/start.md on another Airflow and Python, from an empty folder (make start AIRFLOW=3.1 PYTHON=3.12)
	@test -f $(PAIR_LOCK) || { echo "There is no lock for Airflow $(AIRFLOW) with Python $(PYTHON). There are: $(PAIRS)"; exit 1; }
	@$(MAKE) --no-print-directory $(INSTALLED) PYTHON=python3
	@$(BIN)/python -m docs.walk_start $(PAIR_LOCK) --python python$(PYTHON)

pairs: ## List the pairs of an Airflow and a Python that `make test-on` knows
	@echo $(PAIRS)

matrix: $(INSTALLED) ## Kill and stop processes at every named point: all of the crash matrix, of which `make test` runs half
	AIHANDOFF_WHOLE_MATRIX=1 $(BIN)/python -m pytest tests/integration/crashes/test_matrix.py

check: $(INSTALLED) ## Check style, spelling and types, and run the unit tests: fast enough for every change
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports
	$(BIN)/deptry airflow_provider_aihandoff
	$(BIN)/mypy
	$(BIN)/python -m pytest $(ON_EACH_CORE) --cov --cov-report=term:skip-covered --cov-fail-under=$(COVERAGE) tests/unit

chaos: $(CHAOS_VENV)/.installed ## Kill thousands of processes at random, with AI Handoff and in plain Dags, and count double writes
	$(CHAOS_VENV)/bin/python -m chaos --crashes 10000 --plain 1000 --seed 1 --at-once 24

nodes: $(NODES_VENV)/.installed ## End each node of an Airflow on many nodes in turn, under 200 jobs each (hours; root, Linux)
	@$(NODES_VENV)/bin/python -m nodes

nodes-short: $(NODES_VENV)/.installed ## The same with 20 jobs, one worker and one triggerer (minutes)
	@$(NODES_VENV)/bin/python -m nodes --short

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(INSTALLED) ## Resolve the requirements again; the files name no hosts
	$(BIN)/uv pip compile --upgrade --universal --generate-hashes --python-version 3.11 --no-annotate \
		--custom-compile-command 'make lock' requirements/bootstrap.in -o requirements/bootstrap.txt
	$(BIN)/uv pip compile --upgrade --universal --generate-hashes --python-version 3.11 --no-annotate --extra dev \
		--no-emit-package airflow-provider-aihandoff --custom-compile-command 'make lock' pyproject.toml \
		-o requirements/requirements.txt
	$(BIN)/uv pip compile --upgrade --universal --generate-hashes --python-version 3.11 --no-annotate --extra chaos \
		--constraint requirements/requirements.txt --no-emit-package airflow-provider-aihandoff \
		--custom-compile-command 'make lock' pyproject.toml -o requirements/chaos.txt
	$(BIN)/uv pip compile --upgrade --universal --generate-hashes --python-version 3.11 --no-annotate --extra nodes \
		--constraint requirements/requirements.txt --no-emit-package airflow-provider-aihandoff \
		--custom-compile-command 'make lock' pyproject.toml -o requirements/nodes.txt
	for pair in $(PAIRS); do \
		$(BIN)/uv pip compile --upgrade --universal --generate-hashes --python-version $${pair#*-py} --no-annotate --extra dev \
			--no-emit-package airflow-provider-aihandoff --custom-compile-command 'make lock' pyproject.toml \
			requirements/airflow-$${pair%-py*}.in -o requirements/airflow-$$pair.txt || exit; \
	done
	$(BIN)/uv pip compile --upgrade --universal --generate-hashes --python-version 3.12 --no-annotate \
		--custom-compile-command 'make lock' requirements/build.in -o requirements/build.txt
	cp requirements/requirements.txt requirements/image.txt # what the tests run with, wherever the image can have it
	$(BIN)/uv pip compile --python-platform linux --generate-hashes --python-version 3.12 --no-annotate --extra binary \
		--no-emit-package airflow-provider-aihandoff --custom-compile-command 'make lock' pyproject.toml \
		requirements/image.in -o requirements/image.txt

clean: ## Remove the virtual environments and every cache
	rm -rf $(VENV) $(CHAOS_VENV) $(NODES_VENV) .venv-[0-9]* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*

# With bytecode: without it every `airflow` command and every task starts seconds later.
$(INSTALLED): $(LOCKED) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements/requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(CHAOS_VENV)/.installed: $(INSTALLED) requirements/chaos.txt
	$(PYTHON) -m venv $(CHAOS_VENV)
	$(BIN)/uv pip install --quiet --python $(CHAOS_VENV)/bin/python --require-hashes --compile-bytecode -r requirements/chaos.txt
	$(BIN)/uv pip install --quiet --python $(CHAOS_VENV)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

$(NODES_VENV)/.installed: $(INSTALLED) requirements/nodes.txt
	$(PYTHON) -m venv $(NODES_VENV)
	$(BIN)/uv pip install --quiet --python $(NODES_VENV)/bin/python --require-hashes --compile-bytecode -r requirements/nodes.txt
	$(BIN)/uv pip install --quiet --python $(NODES_VENV)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

$(PAIR_VENV)/.installed: requirements/bootstrap.txt $(PAIR_LOCK) pyproject.toml
	python$(PYTHON) -m venv $(PAIR_VENV)
	$(PAIR_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	$(PAIR_VENV)/bin/uv pip install --quiet --python $(PAIR_VENV)/bin/python --require-hashes --compile-bytecode -r $(PAIR_LOCK)
	$(PAIR_VENV)/bin/uv pip install --quiet --python $(PAIR_VENV)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@
