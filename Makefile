# Everything a newcomer or a CI needs; CONTRIBUTING.md explains each target.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODULES := js/node_modules/.installed
BUNDLE := mlc_widget/widget/static/widget.js
LINTED := js/node_modules/.linted
PYTEST := $(BIN)/python -m pytest
SPHINX := $(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet
# How many checks run at once, and processes that `make test` and `make soak` run tests in; 0 runs
# everything one after another.
JOBS ?= 2
AT_ONCE := $(MAKE) --no-print-directory --jobs=$(patsubst 0,1,$(JOBS)) \
	$(if $(filter output-sync,$(.FEATURES)),--output-sync)
# Versions of every package of a development environment; `make CONSTRAINTS=` takes the newest.
CONSTRAINTS ?= constraints.txt
PIP_INSTALL := $(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))

# The tests start hundreds of processes, each of which would compile our modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo lab test pytest check lint lint-js docs format js bench soak faults hosts smoke lock hooks dist clean chromium install installed

help:
	@echo "make demo    set up, run notebooks/quickstart.ipynb in a real kernel, print the conversation"
	@echo "make lab     open the notebooks in JupyterLab"
	@echo "make test    set up, check and test everything, the browser included"
	@echo "make check   lint, format, type and import checks (Python and TypeScript), bundle size, docs"
	@echo "make docs    build the documentation site, strictly"
	@echo "make format  apply the formatters"
	@echo "make js      build the front end"
	@echo "make bench   run the benchmarks"
	@echo "make soak    run the long tests"
	@echo "make faults  try every fault in every phase of a worker; write docs/faults.md (rounds=20 jobs=4)"
	@echo "make hosts   try the chat in marimo, in a JupyterHub, and more; write docs/hosts.md"
	@echo "make smoke   chat with the demo model in this process and in a worker"
	@echo "make lock    write constraints.txt; 'make lock upgrade=1' with the newest versions"
	@echo "make hooks   have git run the linters before each commit"
	@echo "make dist    build the wheel and the sdist, check both, try the wheel"
	@echo "make clean   remove what was built; 'make clean all=1' the virtual environment, too"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("mlc_widget needs Python 3.11 or newer; set PYTHON=") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$@ -m pip install --quiet --upgrade pip

# With the bundle there, the build hook of the editable install has nothing to build.
$(STAMP): pyproject.toml hatch_build.py js/package-lock.json $(CONSTRAINTS) | $(BIN)/python $(BUNDLE)
	$(PIP_INSTALL) --editable ".[dev]"
	@touch $@

# `npm ci` begins with an empty folder, so the mark goes when anything else installs there.
$(MODULES): js/package-lock.json
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null && command -v npm >/dev/null || \
		{ echo "mlc_widget needs Node.js 20 or newer with npm: https://nodejs.org" >&2; exit 1; }
	cd js && npm ci --no-audit --no-fund
	@touch $@

$(BUNDLE): $(MODULES) $(shell find js/src -type f) js/build.mjs js/package.json
	cd js && npm run build
	@touch $@

install:
	+@$(AT_ONCE) installed

installed: $(STAMP) $(BUNDLE)
	@:

js: $(BUNDLE)

demo: install
	$(BIN)/python tools/run_demo.py

lab: install
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/quickstart.ipynb

check: install
	+@$(AT_ONCE) lint lint-js docs

lint: installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

lint-js: installed $(LINTED)
	cd js && npm run test && npm run size

# Once it has passed, it need not run again until one of the files that it reads changes; the
# folders are among them as files can be removed.
$(LINTED): $(MODULES) $(shell find js/src js/test) $(wildcard js/*.mjs js/*.json)
	cd js && npm run typecheck && npm run lint
	@touch $@

# Every page, and an entry for each public name; any warning fails it.
docs: installed
	$(SPHINX) docs docs/_build/html
	@echo "docs/_build/html/index.html"

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The checks of TypeScript take one processor, and the Python tests wait now and then.
test: install chromium
	+@$(AT_ONCE) lint docs
	+@$(MAKE) --no-print-directory --jobs=$(patsubst 0,1,$(JOBS)) lint-js pytest

pytest: installed
	$(PYTEST) -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations 30

# The browser tests drive Debian's Chromium; anything else in CHROMIUM= is used as it is.
chromium:
	@sh tools/ensure_chromium.sh

bench: install
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

soak: install
	$(PYTEST) -n $(JOBS) --dist load --maxschedchunk 1 --durations 30 -m soak --timeout 3600
	$(BIN)/python -m tests.soak.shared

# `make faults rounds=20 jobs=4` tries everything 20 times, in four processes at once.
faults: install
	$(BIN)/python -m tests.faults.table --rounds $(or $(rounds),1) --jobs $(or $(jobs),1)

# These hosts have many dependencies, so they get an environment of their own.
hosts: $(BUNDLE) chromium
	$(PYTHON) -m venv build/hosts
	build/hosts/bin/python -m pip install --quiet --editable . -r tests/hosts/requirements.txt
	npm install --prefix build/hosts --no-audit --no-fund configurable-http-proxy
	build/hosts/bin/python -m tests.hosts.check

smoke: install
	$(BIN)/python tools/smoke.py

# Not from what is installed: the lock may be what an installation waits for.
lock: $(BIN)/python
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra release --universal --python-version 3.11 \
		--no-annotate --custom-compile-command "make lock" $(if $(upgrade),--upgrade) \
		--quiet --output-file constraints.txt

hooks: $(STAMP)
	$(BIN)/pre-commit install

# The wheel is tried where nothing else of ours is: in an environment of its own.
dist: install
	$(PIP_INSTALL) build twine
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m venv --clear build/trial
	build/trial/bin/python -m pip install --quiet "$$(ls dist/*.whl)[tvm]"
	cd build && trial/bin/python ../tools/smoke.py

clean:
	rm -rf build dist out test-results docs/_build docs/project mlc_widget/widget/static js/node_modules .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
	$(if $(all),rm -rf $(VENV))
