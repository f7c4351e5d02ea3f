# The environment is .venv, exactly as uv.lock says; .uv holds the uv that makes it.
# Any Python from 3.11 on will do: make demo PYTHON=python3.12

PYTHON ?= python3
UV := .uv/bin/uv
BIN := .venv/bin
NOTEBOOKS := notebooks/*.ipynb tests/support/notebooks/*.ipynb

export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv
unexport VIRTUAL_ENV

.PHONY: demo test soak lab bench lint
.DELETE_ON_ERROR:

demo: .venv/.complete
	$(BIN)/sla1 demo

test: .venv/.complete
	$(BIN)/python -m pytest -n 2

soak: .venv/.complete
	$(BIN)/python tests/support/soak.py

lab: .venv/.complete
	$(BIN)/sla1 lab

bench: .venv/.bench
	$(BIN)/python -m pytest benchmarks

lint: .venv/.complete
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/nbstripout --verify --keep-id --extra-keys "metadata.papermill cell.metadata.papermill metadata.widgets" $(NOTEBOOKS)

$(UV):
	$(PYTHON) -m venv .uv
	echo '*' > .uv/.gitignore
	.uv/bin/python -m pip install --quiet "uv>=0.8"

.venv/.complete: pyproject.toml uv.lock | $(UV)
	$(UV) sync --quiet --frozen --compile-bytecode --python $(PYTHON)
	touch $@

.venv/.bench: .venv/.complete
	$(UV) sync --quiet --frozen --compile-bytecode --python $(PYTHON) --group bench
	touch $@
