"""The overview of all reports, one page."""

import base64
import io
import json
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import jinja2
from PIL import Image
from tqdm import tqdm

from ..paths import save
from .hashes import tree


def thumbnail(path: Path) -> str:
    """A PNG as a data URI at twice the height at which the overview shows it; "" for a file that is no whole
    picture.
    """
    buffer = io.BytesIO()
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture = picture.convert("RGBA")
            picture.thumbnail((900, 300))
            picture.save(buffer, "PNG", optimize=True)
    except (OSError, SyntaxError):  # Pillow's words for a broken PNG: the overview is no reason to end a run
        return ""
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def write_index(out: Path) -> Path:
    """Write out/index.html, a page that needs no other file: every run known below `out`, and links and thumbnails of
    what those that ended have left.
    """
    runs = []
    for state in sorted((out / ".state").glob("*.json")):
        run = json.loads(state.read_text(encoding="utf-8"))
        # what is still running may be writing its files
        paths = tree(out / run["name"], "*") if run["status"] != "running" else []
        files = [(path, {"name": path.name, "url": quote(path.relative_to(out).as_posix())}) for path in paths]
        html = out / f"{run['name']}.html"
        runs.append(
            run
            | {
                "parameters": {n: json.dumps(v, ensure_ascii=False) for n, v in run["parameters"].items()},
                "html": quote(html.name) if html.exists() else None,
                "when": datetime.fromisoformat(run["started"]).strftime("%Y-%m-%d %H:%M"),
                "took": tqdm.format_interval(run["seconds"]) if "seconds" in run else None,
                "tables": [file for path, file in files if path.suffix == ".csv"],
                "figures": [file | {"thumbnail": thumbnail(path)} for path, file in files if path.suffix == ".png"],
            }
        )
    page = Path(__file__).with_name("index.html.j2").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(page)
    save(out / "index.html", template.render(runs=runs))
    return out / "index.html"
