"""The report runner, on tiny notebooks made on the spot."""

import html
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from urllib.parse import unquote

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from clip.model import CLIP
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from nibkit import __main__ as cli
from nibkit import load, paths
from nibkit.commands import NAMES
from nibkit.models import checksum
from nibkit.reports import index, page, parameters, runner, verdicts
from nibkit.reports.clean import clean
from nibkit.reports.hashes import code_and_data, fingerprint
from nibkit.reports.parameters import RUNS, plan
from nibkit.reports.runner import refresh, run_reports
from nibkit.reports.site import site

PARAMETERS = """n: int = 3  # rows
rate: float = 0.5  # of something
label: str = "x"  # a word
flag: bool = False
layers: list = [3, 9]
out: str = "../reports/x"
"""
TABLE = """from pathlib import Path
(Path(out) / "table.csv").write_text("row\\n" + "1\\n" * n)
"""
FIGURE = """from PIL import Image
Image.new("RGB", (640, 480), "red").save(Path(out) / 'a "figure".png')
drawn = Image.new("RGB", (640, 480), "red")
drawn.save(Path(out) / "red.png")
display(drawn)
"""
FRAGILE = """import os
tries = Path(out) / "tries"
tries.mkdir(exist_ok=True)
(tries / str(len(list(tries.iterdir())))).touch()
if len(list(tries.iterdir())) < 2:
    os._exit(1)
"""
QUESTION = """[![Open in Colab](https://x/badge.svg)](https://x?y)

**Question.** Does a [small](../data/u.md) *run*, vs. none, work? Yes.

**Answer.** It does, see [02](02_bad.ipynb#A-title) and $\\frac{1}{n} < \\lambda$.
"""
READ = "Red is the figure that is drawn: see [the other](01_good.ipynb)."


def notebook(folder, stem, *sources, title="A title", parameters=PARAMETERS):
    folder.mkdir(exist_ok=True, parents=True)
    head = new_markdown_cell(f"# {title}\n\n{QUESTION}")
    cells = [head, new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source) if isinstance(source, str) else source for source in sources]
    kernel = {"name": "python3", "language": "python", "display_name": "p"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / f"{stem}.ipynb")
    return folder


def rows(out, name):
    return len((out / name / "table.csv").read_text().splitlines()) - 1


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two good runs of one notebook, and one that fails, two side by side."""
    root = tmp_path_factory.mktemp("checkout")
    sources = [TABLE, new_markdown_cell("## What is red?"), FIGURE, new_markdown_cell(READ)]
    notebook(root / "notebooks", "01_good", *sources, title="<script>alert(1)</script> & `code`")
    noise = "import sys\nprint('noise', file=sys.stderr)\nx = 1"
    notebook(root / "notebooks", "02_bad", noise, "# divide\nx / 0", TABLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameters, "RUNS", {"01_good": [{"label": "a"}, {"label": "b/<i>", "n": 5}]})
        records = run_reports(root / "notebooks", root / "reports", jobs=2)
    return root, {record["name"]: record for record in records}


def test_the_table_of_runs_names_notebooks_that_exist():
    folder = paths.PACKAGE.parent / "notebooks"
    if not folder.is_dir():
        pytest.skip("an installed wheel has no notebooks")
    assert [stem for stem in RUNS if not (folder / f"{stem}.ipynb").exists()] == []


def test_runs_leave_page_notebook_and_tables(made):
    root, records = made
    assert list(records) == ["01_good-a", "01_good-b-i--5", "02_bad"]
    out = root / "reports"
    assert (rows(out, "01_good-a"), rows(out, "01_good-b-i--5")) == (3, 5)
    page = re.sub("<[^>]+>", "", (out / "01_good-a.html").read_text(encoding="utf-8"))
    assert 'out = "../reports/01_good-a"' in page and '"row\\n" + "1\\n" * n' in page
    nb = nbformat.read(out / "01_good-a" / "01_good-a.ipynb", as_version=4)
    assert nb == clean(nb) and "papermill" not in nb.metadata
    assert [c.execution_count for c in nb.cells if c.cell_type == "code"] == [1, 2, 3, 4]
    assert str(root) not in (out / "01_good-a" / "01_good-a.ipynb").read_text(encoding="utf-8")


def test_a_failure_is_listed_with_its_cell_and_does_not_stop_the_others(made):
    root, records = made
    assert [records[name]["status"] for name in records] == ["ok", "ok", "failed"]
    assert records["02_bad"]["error"] == "cell 4 of 5 (`# divide`): ZeroDivisionError: division by zero"
    page = (root / "reports" / "02_bad.html").read_text(encoding="utf-8")
    assert "ZeroDivisionError" in page and "noise\n" not in page
    assert not (root / "reports" / "02_bad" / "table.csv").exists()


def test_the_overview_escapes_every_string(made):
    root, _ = made
    page = (root / "reports" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<i>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; code (a)" in page
    assert '<p class="dim">Does a small run, vs. none, work?</p>' in page
    assert '<a href="01_good-a/table.csv">table.csv</a>' in page
    assert '<a href="01_good-a/a%20%22figure%22.png">' in page
    assert "ZeroDivisionError" in page and "label = &#34;b/&lt;i&gt;&#34;" in page


def addresses(page):
    """What a page fetches, and where it leads."""
    return re.findall(r'(?:\bsrc="|url\()(.*?)[")]', page), re.findall(r'\bhref="(.*?)"', page)


def stray(folder):
    """What the pages of a folder fetch from elsewhere, and the relative addresses in them that lead nowhere."""
    found = []
    for file in folder.glob("*.html"):
        text = file.read_text(encoding="utf-8")
        fetched, links = addresses(text)
        found += re.findall("<script|<link|@import", text) + [a for a in fetched if "//" in a]
        for address in [a for a in fetched + links if "//" not in a]:
            path, _, section = address.partition("#")
            target = folder / unquote(path or file.name)
            there = target.is_file() and (not section or f'id="{section}"' in target.read_text(encoding="utf-8"))
            found += [] if there else [(file.name, address)]
    return found


def test_pages_fetch_nothing_and_their_relative_links_lead_to_files(made):
    root, _ = made
    assert stray(root / "reports") == []
    good = (root / "reports" / "01_good-b-i--5.html").read_text(encoding="utf-8")
    _, links = addresses(good)
    assert "https://github.com/nibkit/nibkit/blob/main/data/u.md" in links and ">Open in Colab</a>" in good
    # of the same data set where there is one; of a run with another name, what there is
    assert "02_bad.html#a-title" in links and "01_good-b-i--5.html" in links


def test_a_page_has_contents_neighbours_folded_imports_alts_and_formulas(made):
    root, _ = made
    page = (root / "reports" / "01_good-b-i--5.html").read_text(encoding="utf-8")
    assert page.count('<a href="#what-is-red">What is red?</a>') == 2 and '<h2 id="what-is-red">' in page
    assert 'href="01_good-a.html" rel="prev"' in page and 'href="02_bad.html" rel="next"' in page
    assert page.count('href="index.html">All reports</a>') == 3
    assert re.search(r"<details><summary>Imports</summary><div class=.*?pathlib", page)
    assert 'src="01_good-b-i--5/figures/1.png" alt="Figure in: What is red?"' in page
    assert "<mfrac>" in page and "frac{" not in page
    picture = Image.open(root / "reports" / "01_good-b-i--5" / "figures" / "1.png")
    assert picture.size == (640, 480) and picture.getpixel((0, 0))[:3] == (255, 0, 0)


def test_the_overview_shows_answer_and_one_figure_with_its_caption(made, monkeypatch):
    root, _ = made
    monkeypatch.setattr(index, "CHOSEN", {"01_good": "red.png"})
    page = index.write(root / "reports", only=()).read_text(encoding="utf-8")
    entry = page[page.index('id="01_good-a"') : page.index('id="01_good-b-i--5"')]
    assert '<p>It does, see <a href="02_bad.html#a-title">02</a> and <math' in entry
    assert entry.count("<img") == 1 and 'src="01_good-a/red.png"' in entry
    assert '<p>Red is the figure that is drawn: see <a href="01_good-a.html">the other</a>.</p>' in entry


def test_a_site_has_the_committed_notebooks_for_what_was_not_run_here(made, tmp_path, monkeypatch):
    root, _ = made
    shutil.copytree(root, tmp_path / "clone", ignore=shutil.ignore_patterns(".state", "0*_*-*.ipynb"))
    monkeypatch.setattr(parameters, "RUNS", {"01_good": [{"label": "x"}, {"label": "a"}]})
    (tmp_path / "clone" / "reports" / "01_good-x").mkdir()
    page = site(tmp_path / "clone", tmp_path / "site").read_text(encoding="utf-8")
    pages = sorted(file.name for file in (tmp_path / "site").glob("*.html"))
    assert pages == ["01_good-x.html", "02_bad.html", "index.html"] and stray(tmp_path / "site") == []
    assert "3 runs, 3 ok" in page and '<a href="01_good-a/table.csv">' in page  # what was not made has no page
    assert list(site(root, tmp_path / "local").parent.glob("01_good-b*.html"))  # what was made here is shown


def test_the_figures_that_the_overview_shows_are_saved_by_their_notebooks():
    for stem, name in index.CHOSEN.items():
        nb = nbformat.read(paths.PACKAGE.parent / "notebooks" / f"{stem}.ipynb", as_version=4)
        assert any(f'"{name}"' in cell.source for cell in nb.cells if cell.cell_type == "code"), (stem, name)


def test_the_formulas_of_the_notebooks_become_mathml_and_no_tags_stand_in_them():
    for file in sorted((paths.PACKAGE.parent / "notebooks").glob("*.ipynb")):
        text = "\n\n".join(c.source for c in nbformat.read(file, 4).cells if c.cell_type == "markdown")
        shown = page.Markdown().html(text)
        for formula in re.findall(r"<math.*?</math>", shown, re.DOTALL):
            assert not re.search(r"\\|>&<", formula), (file.name, formula)
        assert not re.search(r"<code>[^<]*\\[a-z]{2,}[^<]*\{", shown), file.name  # what was not read stays as it was
        assert not re.search("&lt;/?[a-z]+&gt;", re.sub("<code>.*?</code>", "", shown)), file.name  # nor is a tag one


def test_what_is_not_read_as_a_formula_stays_as_it_was_written():
    assert page.mathml(r"a < \frac{b}{") == r"<code>a &lt; \frac{b}{</code>"
    assert page.mathml(r"\begin{aligned} a &= b \end{aligned}", "block").count("<mtd") == 2


def test_verdicts_are_read_from_the_tables_of_the_reports():
    reports = paths.PACKAGE.parent / "reports"
    runs = [{"name": folder.name, "status": "ok", "url": "x"} for folder in sorted(reports.glob("[0-9]*"))]
    items = {item["name"]: item["verdicts"] for item in verdicts.items(reports, runs)}
    unread = [name for name, found in items.items() if not found or "see the report" in str(found)]
    assert unread in ([], ["Table 2, FPS"])  # a clock's readings are not committed
    assert items["Table 8"] == [{"run": "07", "url": "x", "verdict": "the counts of 8 of 8 methods come back exactly"}]
    assert [said["run"] for said in items["Table 2"]] == ["scenes-captions", "scenes-objects"]


def test_a_verdict_follows_its_table(tmp_path):
    rows = ["claim,verdict", '"Theorem 1, a",holds', '"Theorem 1, b",FAILS', "Theorem 2,holds"]
    (tmp_path / "verdicts.csv").write_text("\n".join(rows))
    assert verdicts.checks("^Theorem 1")(tmp_path) == "1 of 2 checks hold; not: Theorem 1, b"
    assert verdicts.checks("^Theorem 2")(tmp_path) == "1 of 1 checks hold"
    (tmp_path / "trend.csv").write_text("metric,verdict\na,with\nb,against\nc,open\n")
    assert verdicts.curve(tmp_path) == "beyond chance, 1 of 3 metrics move with the paper's, 1 against it"
    (tmp_path / "cosines.csv").write_text(",p,q\np,0.1,0.2\nq,0.1,0.2\n")
    assert verdicts.retrieved(tmp_path) == "1 of 2 captions find their own picture first"
    run = {"name": "00_index", "status": "ok", "url": "x"}
    said = {item["name"]: item["verdicts"] for item in verdicts.items(tmp_path, [run]) if item["verdicts"]}
    assert said == {"Text": [{"run": "00", "url": "x", "verdict": "see the report"}]}


def test_a_finished_run_is_repeated_only_when_something_changed(tmp_path):
    folder, out = notebook(tmp_path / "notebooks", "01_good", TABLE), tmp_path / "reports"
    code = tmp_path / "nibkit" / "deep" / "module.py"
    code.parent.mkdir(parents=True)
    code.write_text("a = 1\n")

    def started(**options):  # a run that is made again leaves a table that was not there before
        (out / "01_good" / "table.csv").unlink(missing_ok=True)
        (record,) = run_reports(folder, out, **options)
        assert record["status"] == "ok"
        return (out / "01_good" / "table.csv").exists()

    assert started()
    assert not started()
    stale = out / "01_good" / "old.csv"
    stale.touch()
    assert started(parameters={"n": "4"}) and rows(out, "01_good") == 4
    assert not stale.exists()
    code.write_text("a = 2\n")
    assert started(parameters={"n": 4}) and not started(parameters={"n": "4"})
    notebook(folder, "01_good", TABLE, "1 + 1")
    assert started(parameters={"n": 4})


def test_the_fingerprint_sees_data_and_named_files_but_not_outputs(tmp_path):
    folder = notebook(tmp_path / "notebooks", "01_good", TABLE)
    pictures, data = tmp_path / "pictures", tmp_path / "data"
    pictures.mkdir(), data.mkdir()

    def now(label="../pictures"):
        (run,) = plan(folder, parameters={"label": label})
        return fingerprint(run)

    seen = [now()]
    nb = nbformat.read(folder / "01_good.ipynb", as_version=4)
    nb.cells[2].outputs = [new_output("stream", text="printed")]
    nb.metadata["x"] = 1
    nbformat.write(nb, folder / "01_good.ipynb")
    assert now() == seen[0]
    (data / "weights").write_text("1")
    seen.append(now())
    (data / "weights").write_text("2")
    seen.append(now())
    (pictures / "a.png").write_text("1")
    seen.append(now())
    seen.append(now("other"))
    assert len(set(seen)) == 5
    (pictures / "a.png").write_text("more")
    assert now() not in seen
    assert list(code_and_data(tmp_path)) == ["data/weights"]


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"m": 1}, r"no selected notebook has a parameter 'm'.*01_good: n, rate, label, flag, layers, out"),
        ({"n": "many"}, r"n='many' is not of type int, which 01_good needs \(default 3\)"),
        ({"n": "2.5"}, "n='2.5' is not of type int"),
        ({"n": True}, "n=True is not of type int"),
        ({"rate": "fast"}, "rate='fast' is not of type float"),
        ({"flag": "1"}, "flag='1' is not of type bool"),
        ({"layers": "3"}, "layers='3' is not of type list"),
        ({"label": 3}, "label=3 is not of type str"),
        ({"out": "here"}, "--out FOLDER"),
    ],
)
def test_bad_parameters_are_refused_before_anything_runs(tmp_path, parameters, message):
    folder = notebook(tmp_path / "notebooks", "01_good", TABLE)
    with pytest.raises(ValueError, match=message):
        run_reports(folder, tmp_path / "reports", parameters=parameters)
    assert not (tmp_path / "reports").exists()


def test_parameters_are_read_as_the_declared_type(tmp_path):
    folder = notebook(tmp_path / "notebooks", "01_good")
    text = {"n": "7", "rate": "1e-05", "label": "12", "flag": "true", "layers": "[1, 2]"}
    (run,) = plan(folder, parameters=text)
    assert run.parameters == {"n": 7, "rate": 1e-05, "label": "12", "flag": True, "layers": [1, 2]}
    (run,) = plan(folder, parameters={"rate": 2})
    assert repr(run.parameters) == "{'rate': 2.0}"
    assert run.settings == {"n": 3, "rate": 2.0, "label": "x", "flag": False, "layers": [3, 9], "out": "../reports/x"}


def test_a_parameter_that_papermill_would_overlook_is_refused(tmp_path):
    folder = notebook(tmp_path / "notebooks", "01_good", parameters="n: int = 3  # rows; 0 = all\nm: int = 1")
    with pytest.raises(ValueError, match="cannot read the line of 'n' in the parameters cell of 01_good.ipynb"):
        plan(folder)


def test_a_notebook_without_a_kernel_is_refused_by_name(tmp_path):
    cell = new_code_cell("n = 1", metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "01_a.ipynb")
    with pytest.raises(ValueError, match="01_a.ipynb: No kernel name found"):
        plan(tmp_path)


def test_plan_selects_names_and_merges_runs(tmp_path, monkeypatch):
    folder = notebook(tmp_path / "notebooks", "03_bench", parameters='dataset: str = "x"')
    notebook(folder, "04_other")
    notebook(folder, "scratch")
    monkeypatch.setattr(parameters, "RUNS", {"03_bench": [{"dataset": "a"}, {"dataset": "b"}]})

    def names(**options):
        return [run.name for run in plan(folder, **options)]

    assert names() == ["03_bench-a", "03_bench-b", "04_other"]
    assert names(only=("04", "03_bench-b")) == ["03_bench-b", "04_other"]
    assert names(parameters={"dataset": "b"}) == ["03_bench-b", "04_other"]
    given = [run.parameters for run in plan(folder, parameters={"n": 1})]
    assert given == [{"dataset": "a"}, {"dataset": "b"}, {"n": 1}]
    with pytest.raises(ValueError, match="no report begins with '05'; there are 03_bench-a, 03_bench-b, 04_other"):
        names(only=("05",))
    with pytest.raises(ValueError, match="no selected notebook has a parameter 'n'"):
        names(only=("03",), parameters={"n": 1})
    monkeypatch.setattr(parameters, "RUNS", {"03_bench": [{"data": "a"}]})
    with pytest.raises(ValueError, match="03_bench has no parameter 'data'; it has dataset: str"):
        names()


def test_a_kernel_that_dies_gets_one_more_try(tmp_path):
    folder = notebook(tmp_path / "notebooks", "01_fragile", TABLE, FRAGILE)
    (record,) = run_reports(folder, tmp_path / "reports")
    assert record["status"] == "ok"
    assert len(list((tmp_path / "reports" / "01_fragile" / "tries").iterdir())) == 2


def test_refresh_executes_in_place_and_a_second_time_changes_nothing(tmp_path):
    folder = notebook(tmp_path, "01_good", "print(n)\nimport sys\nprint('bar', file=sys.stderr)\nprint(n + 1)")
    before = [cell.id for cell in nbformat.read(folder / "01_good.ipynb", as_version=4).cells]
    assert refresh(folder) == {}
    text = (folder / "01_good.ipynb").read_text(encoding="utf-8")
    nb = nbformat.reads(text, as_version=4)
    assert [cell.id for cell in nb.cells] == before
    assert [cell.get("execution_count") for cell in nb.cells] == [None, 1, 2]
    assert nb.cells[2].outputs == [new_output("stream", name="stdout", text="3\n4\n")]
    notebook(folder, "02_bad", "raise KeyError('lost')")
    bad = (folder / "02_bad.ipynb").read_text(encoding="utf-8")
    assert refresh(folder) == {"02_bad": "cell 3 of 3 (`raise KeyError('lost')`): KeyError: 'lost'"}
    assert (folder / "01_good.ipynb").read_text(encoding="utf-8") == text
    assert (folder / "02_bad.ipynb").read_text(encoding="utf-8") == bad


def test_refresh_does_not_go_on_with_rows_of_an_earlier_execution(tmp_path):
    parameters = f"out: str = {str(tmp_path / 'out')!r}"
    folder = notebook(
        tmp_path / "notebooks", "01_rows", "import os\nprint(sorted(os.listdir(out)))", parameters=parameters
    )
    (tmp_path / "out").mkdir()
    for name in ("rows.csv", "rows.csv.settings.json", "table.csv"):
        (tmp_path / "out" / name).touch()
    assert refresh(folder) == {}
    assert nbformat.read(folder / "01_rows.ipynb", as_version=4).cells[2].outputs[0].text == "['table.csv']\n"


def test_refresh_reports_a_kernel_that_died_and_goes_on(tmp_path):
    folder = notebook(tmp_path, "01_dies", "import os\nos._exit(1)")
    notebook(folder, "02_good", "1")
    assert refresh(folder) == {"01_dies": "Kernel died"}
    assert nbformat.read(folder / "02_good.ipynb", as_version=4).cells[2].execution_count == 2


def test_an_interrupted_run_ends_at_once_and_says_so(tmp_path, monkeypatch):
    """SIGINT reaches this process alone; what stands for papermill sleeps, and is gone when run_reports returns."""
    folder = notebook(tmp_path, "01_long")
    notebook(folder, "02_next")
    slow = tmp_path / "python"
    slow.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 600\n")
    slow.chmod(0o755)
    monkeypatch.setattr(runner.sys, "executable", str(slow))

    def interrupt():
        while not (tmp_path / "pid").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            run_reports(folder, tmp_path / "out")
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    (state,) = (tmp_path / "out/.state").glob("*.json")
    assert json.loads(state.read_text())["status"] == "interrupted" and state.stem == "01_long"
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert "<b>interrupted</b>" in page and "1 runs, 0 ok" in page


def test_an_interrupted_refresh_says_so_and_keeps_the_file(tmp_path):
    folder = notebook(
        tmp_path, "01_long", "import os, signal, time\nos.kill(os.getppid(), signal.SIGINT)\ntime.sleep(60)"
    )
    before = (folder / "01_long.ipynb").read_text(encoding="utf-8")
    code = "import sys\nfrom pathlib import Path\nfrom nibkit.reports.runner import refresh\nrefresh(Path(sys.argv[1]))"
    child = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, encoding="utf-8", timeout=50)
    assert child.stderr.rstrip().endswith("KeyboardInterrupt") and "AssertionError" not in child.stderr
    assert (folder / "01_long.ipynb").read_text(encoding="utf-8") == before


def test_clean_strips_the_traces_of_execution_and_is_idempotent():
    stamps = {"tags": ["parameters", "injected-parameters"], "execution": {"a": "b"}, "papermill": {"duration": 1.0}}
    cell = new_code_cell("1", metadata=stamps, execution_count=2)
    cell.outputs = [
        new_output("stream", name="stdout", text="a\n"),
        new_output("stream", name="stderr", text="50%"),
        new_output("stream", name="stdout", text="b\n"),
        new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "HBox()"}),
        new_output("execute_result", {"text/plain": "1"}, execution_count=2),
        new_output("display_data", {"text/plain": "<Styler at 0x7f12ab>", "text/html": "T_0a9f3 T_0a9f3_row1 T_ffe01"}),
    ]
    metadata = {"widgets": {}, "papermill": {}, "language_info": {"name": "python", "version": "3.99"}, "colab": {}}
    nb = new_notebook(cells=[cell, new_markdown_cell("text", metadata={"tags": ["x"]})], metadata=metadata)
    original = json.dumps(nb)
    once = clean(nb)
    assert json.dumps(nb) == original
    assert set(once.metadata) == {"kernelspec", "language_info"} and once.metadata.language_info == {"name": "python"}
    assert [c.metadata for c in once.cells] == [{"tags": ["parameters"]}, {}]
    assert once.cells[0].outputs == [
        new_output("stream", name="stdout", text="a\nb\n"),
        new_output("execute_result", {"text/plain": "1"}, execution_count=2),
        new_output("display_data", {"text/plain": "<Styler at 0x0>", "text/html": "T_00000 T_00000_row1 T_00001"}),
    ]
    assert once.cells[0].execution_count == 2 and once.cells[0].id == cell.id
    assert clean(once) == once
    nbformat.validate(once)
    for old in nb.cells:
        del old["id"]
    nb.nbformat_minor = 4
    assert clean(nb) == clean(nb) and clean(nb).nbformat_minor == 5
    nbformat.validate(clean(nb))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "nibkit")
    return tmp_path


def test_command_line(checkout, monkeypatch, capsys):
    assert cli.main(["reports"]) == 2
    assert f"no folder notebooks/ in {checkout}: reports need a checkout" in capsys.readouterr().err
    notebook(checkout / "notebooks", "01_good")
    for arguments, message in [
        (["-p", "m", "1"], "no selected notebook has a parameter 'm'"),
        (["--only", "9"], "no report begins with '9'; there are 01_good"),
        (["--jobs", "0"], "jobs=0 is not a whole number >= 1"),
        (["-p", "n", "1", "-p", "n", "2"], "-p sets n more than once"),
    ]:
        assert cli.main(["reports", *arguments]) == 2
        assert message in capsys.readouterr().err
    given = {}
    finished = [{"name": "01_good", "status": "ok"}, {"name": "02_bad", "status": "failed", "error": "cell 3 broke"}]

    def record(folder, out, **options):
        given.update(options, folder=folder, out=out)
        return finished[: 1 + len(options["only"])]

    monkeypatch.setattr(runner, "run_reports", record)
    assert cli.main(["reports"]) == 0
    assert given["folder"] == checkout / "notebooks" and given["out"] == checkout / "reports"
    assert cli.main("reports --only 01 -p n 2 -p rate -1 --jobs 2 --out x --force".split()) == 1
    assert "FAILED 02_bad, cell 3 broke" in capsys.readouterr().err
    assert given["parameters"] == {"n": "2", "rate": "-1"} and given["only"] == ("01",)
    assert (given["jobs"], str(given["out"]), given["force"]) == (2, "x", True)


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in NAMES)])
def test_help_teaches_with_examples(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0
    assert re.search(r"\nexamples:\s+(python -m )?nibkit ", capsys.readouterr().out)


@pytest.mark.parametrize("command", ["reports", "notebooks", "badges"])
def test_without_papermill_the_commands_say_what_to_install(command, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "papermill", None)
    for name in [name for name in sys.modules if name.startswith("nibkit.reports")]:
        monkeypatch.delitem(sys.modules, name)
    assert cli.main([command]) == 2
    assert capsys.readouterr().err.endswith(f"papermill is missing: {paths.install('reports')}\n")


def test_the_index_comes_last_and_after_any_other(tmp_path):
    """00 lists what the other runs left, so it is made after them, and again when one of them is."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    look = "import pathlib; print(sorted(p.name for p in pathlib.Path(out).parent.glob('01*')))"
    for name, source in (("00_index", look), ("01_table", "pathlib_free = 1")):
        nb = new_notebook()
        nb.metadata = {
            "kernelspec": {"name": "python3", "display_name": "Python 3"},
            "language_info": {"name": "python"},
        }
        cell = new_code_cell(f'out: str = "../reports/{name}"  # folder', metadata={"tags": ["parameters"]})
        nb.cells = [new_markdown_cell("# T\n\n**Question.** Q?"), cell, new_code_cell(source)]
        nbformat.write(nb, folder / f"{name}.ipynb")
    out = tmp_path / "reports"
    records = run_reports(folder, out)
    assert [r["status"] for r in records] == ["ok", "ok"] and records[0]["started"] >= records[1]["started"]
    assert "01_table" in nbformat.read(out / "00_index/00_index.ipynb", 4).cells[-1].outputs[0].text
    first = records[0]["started"]
    (out / "01_table" / "01_table.ipynb").unlink()
    assert run_reports(folder, out)[0]["started"] > first


# --- on another model and other data -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A CLIP of 12 + 12 tiny blocks with random weights, in OpenAI's format, under a name that no page may run."""
    file = tmp_path_factory.mktemp("model") / "tiny <script>alert(2).pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(CLIP(32, 64, 12, 64, 16, 77, 49408, 64, 1, 12).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """cc.csv with three pairs, one of them without a picture and two with markup, and an rsicd.csv."""
    folder = tmp_path_factory.mktemp("sets")
    for k in range(2):
        noise = np.random.default_rng(k).integers(0, 255, (50, 70, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{k}.png")
    rows = ["caption,file_path", "a dog & <script>alert(1)</script>,0.png", "a $cat$ on $ grass,1.png"]
    (folder / "cc.csv").write_text("\n".join([*rows, "<script>alert(1)</script> gone,missing.png"]))
    (folder / "rsicd.csv").write_text("image,text\n0.png,a field\n")
    return folder


def test_the_notebooks_on_another_model_and_other_data(checkpoint, sets, tmp_path, capsys):
    """One notebook from end to end: the label on every page, the broken pair listed, no caption run as markup."""
    out = tmp_path / "real"
    command = ["reports", "--model", f"openai:{checkpoint}", "--data", str(sets), "--out", str(out), "--only", "03"]
    assert cli.main([*command, "-p", "methods", "['nib', 'saliency']", "-p", "rise_masks", "2"]) == 0
    assert "1 of 1 reports are fine" in capsys.readouterr().out
    folder = out / "03_benchmark-conceptual_captions"
    weights = checksum(load(f"openai:{checkpoint}", device="cpu"))
    about = pd.read_csv(folder / "about.csv").iloc[0]
    assert (about.model, about.weights, about.dataset) == ("tiny <script>alert(2)", weights, "conceptual_captions")
    assert (about.pairs, about.of, about.paper_pairs, about.failures) == (3, 3, 2000, 5)
    page = (out / "03_benchmark-conceptual_captions.html").read_text(encoding="utf-8")
    text = " ".join(html.unescape(re.sub("<[^>]+>", "", page)).split())
    label = f"tiny <script>alert(2), weights {weights}"
    assert f"Made with {label}; data: conceptual_captions, 3 pairs." in text
    assert runner.OTHERS.split(".")[0] in text  # what the prose says was found on another model
    assert text.count(f"Ours: {label}, on 3 of 3 pairs of conceptual_captions (the paper: 2,000); 5 failures") == 4
    assert "missing.png cannot be read as a picture: No such file" in text and "<script>alert(1)</script> gone" in text
    index = (out / "index.html").read_text(encoding="utf-8")
    assert "Made with tiny &lt;script&gt;alert(2), weights " + weights in index
    for made_page in (page, index):
        assert "<script>alert" not in made_page


def test_plan_on_a_subject(monkeypatch, tmp_path):
    monkeypatch.setattr(
        parameters, "RUNS", {"03_bench": [{"dataset": "scenes-objects"}, {"dataset": "scenes-captions"}]}
    )
    both = 'model: str = "scenes"\ndataset: str = "scenes-objects"'
    folder = notebook(tmp_path, "01_theory", parameters=both)
    notebook(folder, "03_bench", parameters=both)
    notebook(folder, "04_other", parameters="n: int = 1")
    notebook(folder, "08_remote", parameters='model: str = "scenes"\npairs: str = ""')

    monkeypatch.setattr(parameters.data, "load", str)  # as many pairs as its path has letters

    def planned(data, **options):
        runs = plan(folder, about=known("M, weights 0", data), **options)
        for run in runs:
            own = run.parameters.get("dataset", run.parameters.get("pairs", ""))
            name = {path: name for name, path in data.items()}.get(own)
            said = f"{name}, {len(own)} pairs" if name else "the bundled drawings"
            assert run.about == f"M, weights 0; data: {said}"
        return {run.name: run.parameters for run in runs}

    assert list(planned({"mine": "/d/mine"}, only=("03", "08"))) == ["03_bench-mine", "08_remote"]
    assert planned({"flickr8k": "/d/en_val.json", "tiny-imagenet": "/d/tiny", "rsicd": "/d/rsicd.csv"}) == {
        "01_theory-flickr8k": {"model": "M", "dataset": "/d/en_val.json"},
        "03_bench-flickr8k": {"model": "M", "dataset": "/d/en_val.json"},
        "03_bench-tiny-imagenet": {"model": "M", "dataset": "/d/tiny"},
        "04_other": {},
        "08_remote-rsicd": {"model": "M", "pairs": "/d/rsicd.csv"},
    }
    assert list(planned({})) == [
        "01_theory",
        "03_bench-scenes-objects",
        "03_bench-scenes-captions",
        "04_other",
        "08_remote",
    ]
    assert list(planned({"flickr8k": "/d/x"}, only=("03",))) == ["03_bench-flickr8k"]
    with pytest.raises(ValueError, match="the model is M already; leave -p model out"):
        planned({}, parameters={"model": "N"})


def known(weights, data=()):
    """A subject whose model need not be loaded."""
    made = parameters.Subject("M", "M", dict(data))
    vars(made)["weights"] = weights
    return made


def test_other_weights_make_a_run_stale(tmp_path):
    folder = notebook(tmp_path, "01_good", TABLE)
    prints = [
        fingerprint(plan(folder, about=known(f"M, weights {k}"))[0]) for k in (0, 1, 1)
    ]
    assert prints[0] != prints[1] == prints[2]


def test_a_subject_is_loaded_before_anything_runs(checkpoint, sets, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    found = parameters.subject(f"openai:{checkpoint.name}", str(sets))
    assert (found.model, found.slug) == (f"openai:{checkpoint}", "tiny-script-alert-2")
    assert found.data == {"conceptual_captions": str(sets / "cc.csv"), "rsicd": str(sets / "rsicd.csv")}
    bundled = parameters.subject("scenes")
    assert (bundled.slug, bundled.data) == ("scenes", {}) and bundled.about({}).endswith("; data: the bundled drawings")
    refused = [(["--model", "ViT-Z"], "model 'ViT-Z' is neither"), (["--data", str(tmp_path)], "it is not a dataset")]
    refused += [
        (["--data", str(sets), "--out", str(paths.PACKAGE.parent / "reports")], "belongs to the reports of the bundled")
    ]
    for arguments, message in refused:
        assert cli.main(["reports", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_the_overview_survives_files_that_are_being_written(tmp_path):
    """Another notebook may be in the middle of a picture: of what runs, no file is named."""
    picture = io.BytesIO()
    Image.new("RGB", (200, 100)).save(picture, "PNG")
    state = {"title": "T", "question": "", "parameters": {}, "about": "", "started": "2025-01-01T00:00:00+00:00"}
    for name, status in (("01_done", "ok"), ("02_going", "running")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "whole.png").write_bytes(picture.getvalue())
        (tmp_path / name / "half.png").write_bytes(picture.getvalue()[:40])
        paths.save(tmp_path / ".state" / f"{name}.json", json.dumps(state | {"name": name, "status": status}))
    page = index.write(tmp_path).read_text(encoding="utf-8")
    assert "01_done/whole.png" in page
    assert "02_going" in page and "02_going/whole.png" not in page
