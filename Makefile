# make demo and make test need only Python 3.11 or later, pip and make; both install into .venv first.
PYTHON ?= python3
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs

.PHONY: demo test lint docs package release install clean

demo: install  ## the main job on a simulated study, into demo/
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo.sh demo

test: install  ## all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

lint: install  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(DOCS_STAMP)  ## the documentation site, into build/site; with NOTEBOOK=1 the notebook is run, a minute more
	$(BIN)/python scripts/docs/prepare_docs.py build/docs $(if $(NOTEBOOK),--execute)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

package: install  ## sdist and wheel into dist/; the wheel is installed elsewhere and used
	OMP_NUM_THREADS=1 scripts/check-package.sh $(VENV)

release: install  ## make release VERSION=0.2.0, with DRY=--dry-run to see what it would do
	$(BIN)/python scripts/release.py $(VERSION) $(DRY)

install: $(STAMP)

# --without-pip and pip --python also work where the system's Python comes without ensurepip, as on Debian.
$(STAMP): pyproject.toml constraints.txt
	@echo "Installing aam and its dependencies into $(VENV), a minute or two"
	@test -x $(BIN)/python || $(PYTHON) -m venv --without-pip $(VENV)
	@$(PYTHON) -m pip --python $(BIN)/python install --quiet pip
	@PYTHONWARNINGS="ignore:Editable installation" $(BIN)/python -m pip install --quiet \
		--constraint constraints.txt --editable '.[dev]'
	@touch $@

$(DOCS_STAMP): $(STAMP)
	@PYTHONWARNINGS="ignore:Editable installation" $(BIN)/python -m pip install --quiet \
		--constraint constraints.txt --editable '.[docs]'
	@touch $@

clean:  ## remove what was installed, built and run
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
