# Two environments: .venv (TransformerLens 3.9, HookedTransformer and Bridge) and .venv-tl4 (4.x, Bridge only).
PYTHON ?= python3
TL3 = .venv/bin
TL4 = .venv-tl4/bin
INSTALL = install --quiet --disable-pip-version-check

.PHONY: audit demo setup test

demo: setup
	$(TL3)/tl-toxmem run --model demo --out runs/demo

setup: .venv/.installed

# torch is named first and alone: pinned, so that no newer build with gigabytes of CUDA is taken for it.
.venv/.installed: pyproject.toml constraints/tl3.txt
	$(PYTHON) -m venv .venv
	$(TL3)/pip $(INSTALL) -c constraints/tl3.txt torch
	$(TL3)/pip $(INSTALL) -c constraints/tl3.txt -e ".[hooked,offline]"
	touch $@

.venv/.dev-installed: .venv/.installed
	$(TL3)/pip $(INSTALL) -c constraints/tl3.txt -e ".[hooked,offline,dev]"
	touch $@

.venv-tl4/.installed: pyproject.toml constraints/tl4.txt
	$(PYTHON) -m venv .venv-tl4
	$(TL4)/pip $(INSTALL) -c constraints/tl4.txt torch
	$(TL4)/pip $(INSTALL) -c constraints/tl4.txt -e ".[test]"
	touch $@

test: .venv/.dev-installed .venv-tl4/.installed
	$(TL3)/ruff check .
	$(TL3)/ruff format --check .
	$(TL3)/mypy
	$(TL3)/bandit --quiet --recursive tl_toxmem --configfile pyproject.toml
	NO_MKDOCS_2_WARNING=1 $(TL3)/mkdocs build --strict --quiet
	$(TL3)/pytest -q -n 2
	$(TL4)/pytest -q -n 2 -m host

# Asks the network which versions that are installed have known holes.
audit: .venv-audit/.installed setup
	.venv-audit/bin/pip-audit --path $$($(TL3)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")

.venv-audit/.installed:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip $(INSTALL) pip-audit
	touch $@
