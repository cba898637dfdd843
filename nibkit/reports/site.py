"""The reports as a site: `python -m nibkit.reports.site FOLDER` makes it without running a notebook.

A run that was made here (`nibkit reports`) is shown as it is; of any other there are the committed tables and
figures, and, where the committed notebook has that run's parameters, its page.
"""

import json
import shutil
import sys
from pathlib import Path

from ..paths import checkout, save
from .index import executed, write
from .parameters import declared, plan
from .runner import described


def site(root: Path, out: Path) -> Path:
    """Make the site of a checkout in `out`, a folder that is empty but for api/; returns its index.html."""
    shutil.copytree(root / "reports", out, ignore=shutil.ignore_patterns("*.html", "*.earlier"), dirs_exist_ok=True)
    for run in plan(root / "notebooks"):
        state = out / ".state" / f"{run.name}.json"
        if state.exists():
            continue
        (out / run.name).mkdir(exist_ok=True)
        defaults = {name: entry["default"] for name, entry in declared(run.notebook).items()}
        if run.parameters.items() <= defaults.items():
            shutil.copy(run.notebook, executed(out, run.name))
        save(state, json.dumps(described(run) | {"status": "ok"}))
    (out / ".nojekyll").touch()  # GitHub Pages serves the files as they are
    return write(out)


if __name__ == "__main__":
    print(site(checkout(), Path(sys.argv[1])))
