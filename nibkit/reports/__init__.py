"""Reports: the numbered notebooks, executed by papermill, as HTML pages beside their tables and figures.

    parameters   which notebook runs with which parameters, checked before anything runs
    hashes       what a run depends on
    runner       executes each run in its own OS process, and skips what is up to date
    clean        strips from a notebook what must not be kept
    index        the overview
    colab        badges, first cells and form fields

    reports/index.html       the overview            reports/RUN/*.csv, *.png   what the notebook saved under `out`
    reports/RUN.html         the executed notebook   reports/RUN/RUN.ipynb      the same, as a notebook
    reports/.state/RUN.json  hash of everything the run depends on, status, time
"""

try:
    import jinja2  # noqa: F401
    import nbclient  # noqa: F401
    import nbconvert  # noqa: F401
    import nbformat  # noqa: F401
    import papermill  # noqa: F401
    import yaml  # noqa: F401
except ImportError as error:
    raise ImportError(f"notebooks are run by papermill, and {error.name} is missing: pip install 'nibkit[reports]'") from error
