# `make` lists the targets. A target that needs Python packages first builds .venv, once, from constraints.txt.
PYTHON ?= python3
export MPLBACKEND := Agg

PY := .venv/bin/python
OLD := .venv/transformers4
# The transformers major before the pinned one, and the two packages it wants older; tests put this folder on PYTHONPATH.
OLD_PINS := transformers==4.57.6 huggingface_hub==0.36.2 tokenizers==0.22.2

.PHONY: help docs screenshot site reports test notebooks badges clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-12s%s\n", $$1, $$2 }' Makefile

reports: .venv/.stamp  ## regenerate reports/; on a real CLIP and real data: make reports MODEL=ViT-B/32 DATA=/data; ARGS="..."
	$(PY) -m nibkit reports --jobs 2 $(if $(MODEL),--model "$(MODEL)") $(if $(DATA),--data "$(DATA)") $(ARGS)

# Two workers of one thread each: the models are too small for more threads to help.
test: .venv/.stamp $(OLD)/.stamp  ## style, unit tests, then the committed notebooks against their own outputs
	$(PY) -m ruff check nibkit tests notebooks
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 tests
	env -u MPLBACKEND OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile --nbval notebooks --sanitize-with notebooks/sanitize.cfg

notebooks: .venv/.stamp  ## run the committed notebooks again, in place
	$(PY) -m nibkit notebooks

badges: .venv/.stamp  ## Colab badges, first cells and form fields: make badges [OWNER/REPO]
	$(PY) -m nibkit badges $(wordlist 2,2,$(MAKECMDGOALS))
	@touch $<  # an address changes pyproject.toml, and nothing that is installed

# In `make badges OWNER/REPO` the address is no target: do nothing for it.
ifeq (badges,$(firstword $(MAKECMDGOALS)))
.DEFAULT:
	@:
endif

screenshot: .venv/.stamp  ## the explorer's picture in the README, taken by the browser test
	$(PY) -m pytest -q tests/test_browser.py
	cp runs/browser/explorer.png reports/explorer.png

# pdoc finds a package's modules by itself, except in those whose __all__ leaves them out.
DOCUMENTED := $(wildcard nibkit/[a-z]* $(foreach room,benchmark data methods metrics models,nibkit/$(room)/[a-z]*))

docs: .venv/.stamp  ## API reference from the docstrings: build/docs/index.html
	EAGER_IMPORT=1 $(PY) -m pdoc nibkit '!nibkit[.]' $(subst /,.,$(basename $(filter-out %/confidence.py,$(DOCUMENTED)))) --output-directory build/docs
	@echo "written: build/docs/index.html"

site: docs  ## reports, from the committed notebooks where they were not made here, and API reference: build/site/index.html
	rm -rf build/site
	mkdir -p build/site
	cp -r build/docs build/site/api
	$(PY) -m nibkit.reports.site build/site

clean:  ## remove .venv, build outputs and caches; data, notebooks and reports stay
	rm -rf .venv build dist .pytest_cache *.egg-info
	find nibkit tests notebooks -name __pycache__ -prune -exec rm -rf {} +

.venv/.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

$(OLD)/.stamp: Makefile .venv/.stamp
	rm -rf $(OLD)
	$(PY) -m pip install -q --no-deps --target $(OLD) $(OLD_PINS)
	touch $@
