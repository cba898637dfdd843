"""Reports: the numbered notebooks, executed by papermill, as HTML pages beside their tables and figures.

    parameters   which notebook runs with which parameters, checked before anything runs
    hashes       what a run depends on
    runner       executes each run in its own OS process, and skips what is up to date
    clean        strips from a notebook what must not be kept
    page         an executed notebook as a page: contents, links, formulas, figures
    verdicts     what the reports found about each item of the paper
    index        all pages, and the overview
    colab        badges, first cells and form fields

    reports/index.html       the overview            reports/RUN/*.csv, *.png   what the notebook saved under `out`
    reports/RUN.html         the executed notebook   reports/RUN/figures/       what it shows
    reports/RUN/RUN.ipynb    the same, as a notebook
    reports/.state/RUN.json  hash of everything the run depends on, status, time
"""

from importlib.util import find_spec

from ..paths import install

for _needed in ("jinja2", "latex2mathml", "nbclient", "nbconvert", "nbformat", "papermill", "yaml"):
    if not find_spec(_needed):
        raise ImportError(f"notebooks are run by papermill, and {_needed} is missing: {install('reports')}")
