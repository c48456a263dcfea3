# `make demo` and `make test` do all the set-up themselves, in .venv; PYTHON names the interpreter (3.11 or later).
PYTHON ?= python3
BIN := .venv/bin
SOURCES := setup.py pyproject.toml $(wildcard csrc/*)

.PHONY: demo test lint demo-detector clean

demo: .venv/installed  ## score the photographs that come with the package, with the detector that comes with it
	@echo "==> Scoring real photographs with drawn defects (a minute or two)"
	$(BIN)/diffnoise demo --output runs/demo

test: .venv/installed-test lint  ## the whole test suite
	@echo "==> Running the tests"
	$(BIN)/python -m pytest

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

demo-detector: .venv/installed  ## train the detector that comes with the package, from the package's photographs alone
	@echo "==> Training the demo's detector"
	$(BIN)/python -m diffnoise.demo.train

clean:
	rm -rf .venv build runs/demo *.egg-info diffnoise/_C*.so

.venv/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "diffnoise needs Python 3.11 or later; name one with make PYTHON=..." && false)
	@echo "==> Creating the environment .venv"
	$(PYTHON) -m venv .venv
	touch $@

.venv/dependencies: .venv/pip requirements.txt constraints.txt
	@echo "==> Installing the pinned dependencies (torch is the large one)"
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/installed: .venv/dependencies $(SOURCES)
	@echo "==> Building the native extension (about a minute, two where there is an nvcc)"
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv/installed-test: .venv/installed requirements-test.txt
	@echo "==> Installing the pinned test dependencies"
	$(BIN)/python -m pip install --quiet -r requirements-test.txt
	touch $@
