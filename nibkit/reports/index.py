"""What a reader opens: a page for each run, with links between them, and the overview of all."""

import json
import re
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import nbformat
from tqdm import tqdm

from ..paths import PACKAGE, save
from . import colab, page, verdicts
from .hashes import tree

CHOSEN = {  # the one figure of a notebook that the overview shows; of any other, the first
    "01_theory_check": "theorem3_boundary_layer.png",
    "02_single_example": "maps.png",
    "03_benchmark": "summary.png",
    "04_num_steps": "num_steps.png",
    "07_efficiency": "cost_quality.times.png",
    "09_beyond_the_paper": "sanity.png",
    "10_related_methods": "table1.png",
    "12_ground_truth": "truth_verdicts.png",
}


def records(out: Path) -> list[dict]:
    """What is known of every run below `out`, in order, with its notebook (None while it runs, or without one)."""
    runs = [json.loads(state.read_text(encoding="utf-8")) for state in sorted((out / ".state").glob("*.json"))]
    for run in runs:
        notebook = executed(out, run["name"])
        ended = run["status"] != "running" and notebook.exists()
        run["notebook"] = nbformat.read(notebook, as_version=4) if ended else None
        run["html"] = quote(f"{run['name']}.html") if ended else None
        run["url"] = run["html"] or f"#{quote(run['name'])}"
    return runs


def executed(out: Path, name: str) -> Path:
    """The executed notebook of a run."""
    return out / name / f"{name}.ipynb"


def resolver(name: str, runs: list[dict]):
    """Where the links of a run's notebook lead on its page: to another page, of the same data set where there is one;
    what has no page here is in the repository.
    """
    pages = [run["name"] for run in runs if run["html"]]
    source = f"https://github.com/{colab.repository(PACKAGE.parent / 'pyproject.toml')}/blob/main/"

    def resolve(url: str) -> str:
        if re.match(r"[a-z]+:|//", url):
            return url
        path, anchor, section = url.partition("#")
        section = page.slug(section)
        if not path:
            return anchor + section
        stem, data = Path(path).stem, name.partition("-")[2]
        matching = [known for known in pages if known.partition("-")[0] == stem] if path.endswith(".ipynb") else []
        if matching:
            same = f"{stem}-{data}"
            return quote(f"{same if same in matching else matching[0]}.html") + anchor + section
        parts = []
        for part in ("notebooks/" + path).split("/"):
            parts = parts[:-1] if part == ".." else [*parts, part]
        return source + "/".join(parts) + anchor + section

    return resolve


def write(out: Path, only: tuple[str, ...] | None = None) -> Path:
    """Write the pages of the runs below `out` (of those named in `only`, where given) and out/index.html."""
    runs = records(out)
    shown = [run for run in runs if run["html"]]
    for before, run, after in zip([None, *shown], shown, [*shown[1:], None]):
        if only is None or run["name"] in only:
            markdown = page.Markdown(resolver(run["name"], runs))
            made = page.cells(run["notebook"], markdown, out / run["name"])
            around = {"previous": before, "next": after, "headings": markdown.headings}
            save(out / f"{run['name']}.html", page.render("page", title=run["title"], cells=made, **around))
    api = "api/index.html" if (out / "api" / "index.html").exists() else None
    entries = [run | _entry(out, run, runs) for run in runs]
    context = {"runs": entries, "items": verdicts.items(out, runs), "api": api}
    save(out / "index.html", page.render("index", **context))
    return out / "index.html"


def _entry(out: Path, run: dict, runs: list[dict]) -> dict:
    """What the overview says of a run, its answer and figure as HTML."""
    paths = tree(out / run["name"], "*") if run["status"] != "running" else []  # what runs may be writing its files
    paths = [path for path in paths if path.suffix in (".csv", ".png") and path.parent.name != page.FIGURES]
    files = [{"name": path.name, "url": quote(path.relative_to(out).as_posix())} for path in paths]
    figures = sorted((file for file in files if file["name"].endswith(".png")), key=lambda f: f["name"] != _chosen(run))
    markdown = page.Markdown(resolver(run["name"], runs))
    figure = figures[0] if figures else None
    if figure:
        caption, alt = page.described(run["notebook"], figure["name"]) if run["notebook"] else ("", "")
        figure |= {"caption": markdown.html(caption), "alt": alt or f"{run['title']}: {Path(figure['name']).stem}"}
    return {
        "parameters": {n: json.dumps(v, ensure_ascii=False) for n, v in run["parameters"].items()},
        "when": datetime.fromisoformat(run["started"]).strftime("%Y-%m-%d %H:%M") if "started" in run else None,
        "took": tqdm.format_interval(run["seconds"]) if "seconds" in run else None,
        "answer": markdown.html(page.answer(run["notebook"])) if run["notebook"] else "",
        "files": files,
        "figure": figure,
    }


def _chosen(run: dict) -> str | None:
    return CHOSEN.get(run["name"].partition("-")[0])
