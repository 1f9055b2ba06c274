# headrace: `make run` writes with a real model, `make test` proves the promises; CONTRIBUTING.md explains the rest.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?= python3
PROMPT ?= Why is the sky blue? Answer in three sentences.
# Taken as it stands and handed over in the environment, so that neither make nor the shell reads the $, " or ` in it.
override PROMPT := $(value PROMPT)
export PROMPT
# The version of pyright is the lock's; news of a later one is noise.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

BIN := .venv/bin
# Written last: it is there only where all of the set-up went well.
STAMP := .venv/.set-up
# Those in Python each have an environment of their own, so that their pins and ours cannot clash.
CLIENTS := python instructor pydantic-ai
CLIENTS_STAMPS := $(CLIENTS:%=.venv-clients/%/.set-up)
CLIENTS_TESTS := $(CLIENTS:%=test-clients-%)
NODE_STAMP := tests/clients/node/node_modules/.set-up
# The JSON Schema Test Suite, of the version that is locked, is only in the source package of jsonschema.
SUITE := .venv/json-schema
LOCKS := requirements/build.txt requirements/dev.txt requirements/models.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

.PHONY: help run test test-clients $(CLIENTS_TESTS) bench bench-server lint lock clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' Makefile

run: $(STAMP)  ## stream an answer of SmolLM2; make run PROMPT='Tell me a story.'
	@$(BIN)/headrace run smollm2 -- "$$PROMPT"

test: lint  ## lint, types and all tests
	$(BIN)/python -m pytest

test-clients: $(CLIENTS_TESTS)  ## the clients of others against a running server; add -j2 on 2 cores

$(CLIENTS_TESTS): test-clients-%: .venv-clients/%/.set-up $(STAMP) $(NODE_STAMP)
	.venv-clients/$*/bin/python -m pytest --config-file tests/clients/pytest.ini tests/clients/$*

bench: $(STAMP)  ## tokens per second against a bare decode loop
	$(BIN)/python bench/decode.py

bench-server: $(STAMP)  ## the server against others, given as PEERS='NAME=URL ...'; bench/README.md starts them
	$(BIN)/python bench/server.py $(PEERS)

lint: $(STAMP)  ## ruff and pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

# A folder without a stamp is what an interrupted set-up left, and is made anew; one with an old stamp is brought up to
# date in place. All of it, build tools too, comes from the locks: hence no build isolation.
$(STAMP): pyproject.toml $(LOCKS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'headrace needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'This Python cannot make virtual environments; on Debian: apt-get install python3-venv' >&2; exit 1; }
	@echo 'Setting up .venv. The first time llama.cpp is compiled for this machine: about 5 minutes on 2 cores.' >&2
	@if [ -e $@ ]; then rm $@; else $(PYTHON) -m venv --clear .venv; fi
	@$(PIP) install --quiet --require-hashes -r requirements/build.txt
	$(PIP) install --require-hashes --no-build-isolation -r requirements/dev.txt || \
		{ command -v c++ >/dev/null || echo 'llama.cpp needs a C++ compiler; on Debian: apt-get install g++' >&2; exit 1; }
	$(PIP) install --require-hashes --no-deps -r requirements/models.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@rm -rf $(SUITE)
	$(PIP) download --quiet --require-hashes --no-deps --no-build-isolation --no-binary jsonschema \
		--constraint requirements/dev.txt --dest $(SUITE) jsonschema
	@tar -xzf $(SUITE)/jsonschema-*.tar.gz -C $(SUITE) --strip-components 1
	@$(BIN)/pyright --version
	@touch $@

$(CLIENTS_STAMPS): .venv-clients/%/.set-up: tests/clients/%/requirements.txt | $(STAMP)
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check --no-input install --quiet --require-hashes -r $<
	@touch $@

$(NODE_STAMP): tests/clients/node/package-lock.json | $(STAMP)
	cd tests/clients/node && ./with-node npm ci --no-audit --no-fund
	@touch $@

# uv is used for this alone; it lives in a folder of its own, so that nothing else comes to need it.
UV = .venv-lock/bin/uv pip compile --quiet $(UPGRADE) --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --annotation-style line --custom-compile-command 'make lock'

lock:  ## bring the locks in line with pyproject.toml; UPGRADE=--upgrade takes the newest versions
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip --disable-pip-version-check install --quiet uv==0.13.8
	$(UV) --group build --output-file requirements/build.txt
	$(UV) --group dev --extra server pyproject.toml --constraint requirements/build.txt --output-file requirements/dev.txt
	$(UV) --group models --no-deps --output-file requirements/models.txt
	for clients in $(CLIENTS); do \
		$(UV) tests/clients/$$clients/requirements.in --output-file tests/clients/$$clients/requirements.txt || exit; \
	done

clean:  ## remove what was set up, built and cached here
	rm -rf .venv .venv-lock .venv-clients tests/clients/node/node_modules build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
