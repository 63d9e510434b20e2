# `make demo` and `make test` work on a bare clone with nothing but Python >= 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-slow lint bench clean

demo: $(VENV)/.installed
	$(BIN)/shortcut-audit demo --out shortcut-audit-demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/exact_search.py --output reports/benchmarks/exact_search.md
	$(BIN)/python benchmarks/footprint.py --output reports/benchmarks/footprint.md
	$(BIN)/python benchmarks/data_module.py --output reports/benchmarks/data_module.md
	$(BIN)/python benchmarks/hierarchical_search.py --output reports/benchmarks/hierarchical_search.md
	$(BIN)/python benchmarks/page.py --output reports/benchmarks/page.md
	$(if $(DATA),$(BIN)/python benchmarks/gate.py --data "$(DATA)" --work build/gate --output reports/benchmarks/gate.md)
	$(if $(DATA),$(BIN)/python benchmarks/training.py --data "$(DATA)/cifar10_lossless.npz" --output reports/benchmarks/training.md)
	$(if $(DATA),$(BIN)/python benchmarks/searches.py --data "$(DATA)" --output reports/benchmarks/searches.md)
	$(if $(DATA),$(BIN)/python benchmarks/verdicts.py --data "$(DATA)" --output reports/benchmarks/verdicts.md)
	$(if $(DATA),$(BIN)/python benchmarks/transfer.py --data "$(DATA)" --work build/transfer --output reports/benchmarks/transfer.md)
	$(if $(DATA),$(BIN)/python benchmarks/learned_search.py --data "$(DATA)/cifar10_lossless.npz::train" --checkpoint "$(DATA)/checkpoints/resnet20-12fca82f.th" --output reports/benchmarks/learned_search.md)

clean:
	rm -rf $(VENV) shortcut-audit-demo dist build

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "shortcut_audit needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (torch is large; a few minutes on a slow line) ..."
	$(INSTALL) -e '.[parquet]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(INSTALL) -e '.[test]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-test
	$(INSTALL) -e '.[dev]'
	@touch $@
