# make demo    restore a picture; the result is in demo/. Needs only Python 3.10 or newer
# make test    the test suite            (make test ARGS="-k bits")
# make check   linters, types, and a smoke test of the built wheel in a fresh environment
# make bench   the benchmarks            (make bench ARGS=...)
# make docs    the documentation, with its tutorials executed: site/index.html
# make clean   remove everything that the above have made
#
# All share one environment, .venv. On Linux without a GPU, point PIP_EXTRA_INDEX_URL to PyTorch's
# index of CPU wheels to save a large download.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_FLAGS := --disable-pip-version-check -c constraints.txt

.PHONY: demo test check bench docs clean
.NOTPARALLEL:

demo: $(VENV)/.installed
	mkdir -p demo
	$(BIN)/truvae demo -o demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	rm -rf dist
	$(BIN)/python -m build
	dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT INT TERM && \
	$(BIN)/python -m venv "$$dir" && \
	"$$dir/bin/python" -m pip install --quiet $(PIP_FLAGS) dist/*.whl && \
	"$$dir/bin/python" -I .ci/smoke.py

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.installed-docs
	rm -rf site
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs site $(ARGS)

clean:
	rm -rf $(VENV) build dist demo site docs/gallery_of_tutorials .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Empty files stand for what .venv holds: the package alone, or with the extra of that name.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	  v < (3, 10) and sys.exit("truvae needs Python 3.10 or newer, $(PYTHON) is %d.%d; try make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python -m pip install $(PIP_FLAGS) -e .
	touch $@

$(VENV)/.installed-%: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python -m pip install $(PIP_FLAGS) -e '.[$*]'
	touch $@
