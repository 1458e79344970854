# Two commands are the README's: `make demo` and `make test`. Both set themselves up in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RAY_STAMP := $(VENV)/.installed-ray
export PYTHONWARNINGS ?= ignore::DeprecationWarning:pkg_resources

.PHONY: demo test test-slow lint format check-vlm clean

demo: $(STAMP)
	$(BIN)/meshcritic demo --out runs/demo

# two workers of one thread each: two cores are what everything here is measured on
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

# with Ray, which is too large for those who only want the demo
test-slow: $(STAMP) $(RAY_STAMP)
	$(BIN)/python -m pytest -q -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

SPEC ?= embedded
check-vlm: $(STAMP)
	$(BIN)/meshcritic check-vlm "$(SPEC)" --out runs/check-vlm

# torch first and pinned: left to a dependency's range, pip would bring the CUDA build
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] < (3, 14), "meshcritic needs Python 3.11 to 3.13"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(STAMP)

$(RAY_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[ray]"
	touch $(RAY_STAMP)

clean:
	rm -rf $(VENV) runs build *.egg-info
