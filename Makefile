# The environment is .venv, exactly as requirements-dev.txt says (make demo: as requirements.txt); .uv holds uv.
# Any Python from 3.11 on will do: make demo PYTHON=python3.12

PYTHON ?= python3
UV := .uv/bin/uv
BIN := .venv/bin
COMPILE := $(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url
HASHED := --quiet --require-hashes --compile-bytecode
NOTEBOOKS := notebooks/*.ipynb tests/support/notebooks/*.ipynb

export UV_PYTHON_DOWNLOADS := never
unexport VIRTUAL_ENV

.PHONY: demo test quick soak lab bench lint docs lock
.DELETE_ON_ERROR:

demo: .venv/.runs
	$(BIN)/sla1 demo

test: .venv/.complete
	$(BIN)/python -m pytest -n 2

quick: .venv/.complete
	$(BIN)/python -m pytest -n 2 -m "not browser and not slow and not real"

soak: .venv/.complete
	$(BIN)/python tests/support/soak.py

lab: .venv/.runs
	$(BIN)/sla1 lab

bench: .venv/.complete
	$(BIN)/python -m pytest benchmarks

lint: .venv/.complete
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/nbstripout --verify --keep-id --extra-keys "metadata.papermill cell.metadata.papermill metadata.widgets" $(NOTEBOOKS)

docs: .venv/.complete
	$(BIN)/python -m sphinx --quiet --fail-on-warning --fresh-env docs docs/_build
	@echo "docs/_build/index.html"

$(UV):
	$(PYTHON) -m venv .uv
	echo '*' > .uv/.gitignore
	.uv/bin/python -m pip install --quiet "uv>=0.8"

# After a change of the requirements in pyproject.toml; versions that still fit are kept.
lock: | $(UV)
	$(COMPILE) pyproject.toml --output-file requirements.txt
	$(COMPILE) pyproject.toml --group dev --group bench --group docs --constraints requirements.txt \
		--output-file requirements-dev.txt

.venv/bin/python: | $(UV)
	$(UV) venv --quiet --python $(PYTHON) .venv

.venv/.runs: pyproject.toml requirements.txt | .venv/bin/python
	$(UV) pip install $(HASHED) --requirements requirements.txt
	$(UV) pip install --quiet --no-deps --editable .
	touch $@

.venv/.complete: .venv/.runs requirements-dev.txt
	$(UV) pip sync $(HASHED) requirements-dev.txt
	$(UV) pip install --quiet --no-deps --editable .
	touch $@
