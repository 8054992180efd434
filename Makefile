# Two commands on a fresh machine: `make demo` shows it, `make test` proves it. Both make their own .venv first.
.PHONY: help demo test test-long check format bench scale chaos fuzz screenshots client wheel clean audit sbom image deploy-env compose-test

PYTHON := .venv/bin/python
# More for pytest: make test ARGS="tests/model -x". Four at a time: CI has two cores, and a test waits for half of its time.
# Bytecode is kept whatever the environment says: some hundred processes of ours are started, and each compiled them all anew.
ARGS ?=
# Other servers than the embedded ones: make test PG=15 (Debian's; or a folder of programs), REDIS=redis-server. Without ARGS
# they get the tests in which servers can differ: the store, the messages, and the main job through `up` and a scheduler.
PG ?=
REDIS ?=
COMPATIBILITY := tests/store tests/wakeup tests/e2e/test_schedule_to_run.py \
	tests/standalone/test_up.py::test_configured_servers_replace_the_embedded_ones
CHOSEN := $(if $(ARGS),$(ARGS),$(if $(PG)$(REDIS),$(COMPATIBILITY)))

help:
	@echo "make demo    a lab of 12 SSH machines and a stand-in of a Windows host on this one, and jobs on them, live"
	@echo "make test    all tests (ARGS=... goes to pytest; PG=15 and REDIS=redis-server: other servers)"
	@echo "make test-long   the scenes that take longest: before a release, and after a change of what they play"
	@echo "make check   format, lint, types, floors, dependencies, the console's source, deployment files"
	@echo "make format  what make check would complain about, repaired where a tool can"
	@echo "make bench   fan-out against bare asyncssh, OpenSSH and others"
	@echo "make scale   plans and times in a database of a million executions; fails where a goal is missed"
	@echo "make chaos   ten minutes of faults of every kind, and a table of what came of them"
	@echo "make fuzz    requests made up from the API's description, right ones and wrong ones, from two users"
	@echo "make screenshots   the pictures of the console in docs/images (ARGS=--compare: which of them differ)"
	@echo "make client  a client generated from the API's description runs a job"
	@echo "make wheel   the built package, installed into a new environment elsewhere, runs the demo"
	@echo "make audit   asks the advisory service about every package that is installed"
	@echo "make sbom    what opsjobs is made of, as CycloneDX JSON on standard output"
	@echo "make image   the container image (ENGINE=podman for another engine than docker; ARGS=... goes to its build)"
	@echo "make deploy-env    passwords and keys for deploy/compose.yaml, in deploy/.env"
	@echo "make compose-test  the compose stack: built, started, worker killed, backed up, restored, upgraded (needs Docker or podman)"
	@echo "make clean   removes .venv and everything that was made"

demo:
	@scripts/environment run
	@.venv/bin/opsjobs demo

# Before the first whole run the modules of the tests are compiled, each by one process: four would each compile all of them.
test:
	@PG=$(PG) REDIS=$(REDIS) scripts/test-needs
	@scripts/environment dev
	@$(if $(CHOSEN),true,test -d tests/__pycache__ || for half in "tests/[a-d]*/" "tests/[e-z]*/"; do \
		PYTHONDONTWRITEBYTECODE= $(PYTHON) -m pytest --collect-only -q $$half >/dev/null 2>&1 & done; wait)
	@TESTS_POSTGRES=$(PG) TESTS_REDIS=$(REDIS) PYTHONDONTWRITEBYTECODE= $(PYTHON) -m pytest -n 4 $(CHOSEN)

test-long:
	@$(MAKE) --no-print-directory test ARGS="-m long tests"
	@TESTS_RANDOM=1 $(MAKE) --no-print-directory test ARGS="tests/engine/test_ledger_machine.py tests/engine/test_strategy_machine.py tests/model tests/safety"

check:
	@scripts/environment dev
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	.venv/bin/lint-imports --no-cache
	$(PYTHON) -m deptry .
	$(PYTHON) scripts/console check
	@scripts/check-deploy

format:
	@scripts/environment dev
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	$(PYTHON) scripts/console format

bench:
	@scripts/environment dev
	@$(PYTHON) bench/run.py $(ARGS)

scale:
	@scripts/environment dev
	@$(PYTHON) bench/scale.py $(ARGS)

chaos:
	@scripts/environment dev
	@scripts/test-needs
	@PYTHONPATH=tests $(PYTHON) -m chaos $(ARGS)

fuzz:
	@scripts/environment dev
	@PYTHONPATH=tests $(PYTHON) -m fuzz $(ARGS)

screenshots:
	@scripts/environment dev
	@PYTHONPATH=tests $(PYTHON) -m screenshots $(ARGS)

# The generator needs an older typer than ours, so it has an environment of its own.
client:
	@scripts/environment dev
	@test -x .venv-client/bin/openapi-python-client || { python3 -m venv .venv-client && .venv-client/bin/pip install --quiet openapi-python-client ruff; }
	@PATH="$(CURDIR)/.venv-client/bin:$$PATH" $(PYTHON) -m pytest -q tests/standalone/generated_client_run.py

wheel:
	@scripts/environment run
	@scripts/wheel-demo

audit:
	@scripts/environment dev
	@scripts/audit

sbom:
	@scripts/environment run
	@$(PYTHON) scripts/sbom

# Two builds of one commit have the same labels.
ENGINE ?= docker
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/opsjobs/__init__.py)

image:
	@$(ENGINE) build $(ARGS) --tag opsjobs:$(VERSION) --build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$$(git rev-parse HEAD) --build-arg CREATED=$$(git show -s --format=%cI HEAD) .

deploy-env:
	@scripts/deploy-env

compose-test:
	@scripts/environment dev
	@PYTHONPATH=tests $(PYTHON) -m deployment $(ARGS)

clean:
	rm -rf .venv .venv-audit .venv-client .venv-deploy build dist console/node_modules console/src/api/types.ts src/opsjobs/web/static .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
