# make demo   fresh machine to a finished HTML report: virtual environment, installation, `honne demo`
# make test   style, types, tests
# make docs   the documentation in site/, refusing broken links
# make clean  remove what the above made

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Compiled files make every later start two to three times faster.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test docs clean

demo: $(VENV)/demo.installed
	$(BIN)/honne demo

test: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile

docs: $(VENV)/docs.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/demo.installed: extras = demo
$(VENV)/test.installed: extras = dev,cluster
$(VENV)/docs.installed: extras = docs

# One stamp per set of extras: a second call installs nothing until the requirements change.
$(VENV)/%.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e ".[$(extras)]"
	touch $@
