"""The committed tables of reports/ are what this package computes: recomputed from the notebooks' own code, on fewer pairs.

Numbers agree within tolerances, so that another machine's last digits pass; columns of time are left out.
"""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest

from nibkit import benchmark, reports

ROOT = Path(__file__).parents[1]
PLANNED = {run.name: run for run in reports.plan(ROOT / "notebooks")}
COMMITTED = sorted(name for name in PLANNED if (ROOT / "reports" / name).is_dir())
MEASURED = [name for name in COMMITTED if name[:2] in ("03", "04", "05", "06")]  # rows of the four metrics
WHOLE = [name for name in COMMITTED if name[:2] in ("00", "08")]  # seconds each, so all of their tables
SECONDS = re.compile("second")


def code(run: reports.Run) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(run.notebook, as_version=4).cells if cell.cell_type == "code"]


def execute(run: reports.Run, until: str = "", **settings) -> dict:
    """The notebook's variables after its cells ran with the report's parameters and these; up to the cell that makes `until`."""
    names = {"display": lambda *shown: None}
    for cell in code(run):
        exec(cell.source, names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= run.settings | settings
        if until in names:
            break
    plt.close("all")
    return names


def committed(name: str, table: str, **options) -> pd.DataFrame:
    return pd.read_csv(ROOT / "reports" / name / table, **options)


def check(ours: pd.DataFrame, kept: pd.DataFrame) -> None:
    """Same rows and columns, the same words, numbers within 1 % of themselves, or of the column's largest where that is less
    than 0.05 (drops: 0.05, since a small drop is a difference of near cosines)."""
    columns = [column for column in kept if not SECONDS.search(str(column))]
    assert list(ours.columns) == list(kept.columns) and len(ours) == len(kept)
    for column in columns:
        if pd.api.types.is_numeric_dtype(kept[column]) and kept[column].dtype != bool:
            atol = 0.05 if "drop" in str(column) else min(0.05, 0.01 * kept[column].abs().max())
            np.testing.assert_allclose(ours[column], kept[column], rtol=0.01, atol=atol, err_msg=str(column))
        else:
            assert list(ours[column].fillna("")) == list(kept[column].fillna("")), column


def check_rows(ours: pd.DataFrame, kept: pd.DataFrame) -> None:
    """`check`, but for what may differ from machine to machine, and with the pairs that share a batch: whether a cosine that
    hardly moves rose or fell, and where the exact rule put its nodes."""
    assert list(ours.method) == list(kept.method)
    for drop in ("image_drop", "text_drop"):
        rose = drop.replace("drop", "increase")
        level = (ours[drop] < 0.5) & (kept[drop] < 0.5) & kept[rose].isin([0, 100])
        ours[rose] = ours[rose].mask(level, kept[rose])
    exact = kept.method.str.contains("exact")
    for metric in benchmark.METRICS:
        np.testing.assert_allclose(ours[metric][exact], kept[metric][exact], rtol=0.05, atol=0.5, err_msg=metric)
    check(ours[~exact], kept[~exact])


@pytest.mark.parametrize("name", MEASURED)
def test_rows_of_the_first_pair(name, tmp_path):
    ours = execute(PLANNED[name], until="rows", n_pairs=1, out=str(tmp_path))["rows"]
    kept = committed(name, "rows.csv", keep_default_na=False, dtype={"error": str})
    check_rows(ours.reset_index(drop=True), kept[kept.pair == kept.pair[0]].reset_index(drop=True))


@pytest.mark.parametrize("name", MEASURED)
def test_summary_belongs_to_the_rows(name):
    ours = benchmark.summary(committed(name, "rows.csv")).reset_index(drop=True)
    check(ours, committed(name, "summary.csv", index_col=0).reset_index(drop=True))


@pytest.mark.parametrize("name", WHOLE)
def test_all_tables_of_a_quick_notebook(name, tmp_path):
    execute(PLANNED[name], out=str(tmp_path / name))
    made = sorted((tmp_path / name).glob("*.csv"))
    assert made
    for file in made:
        check(pd.read_csv(file), committed(name, file.name))


# ---- what the notebooks show


def numbers(text: str) -> list[str]:
    return re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.])", text)


@pytest.mark.parametrize("name", COMMITTED)
def test_a_notebook_shows_the_numbers_of_its_tables(name):
    run = PLANNED[name]
    if any(run.settings[key] != entry["default"] for key, entry in reports.declared(run.notebook).items()):
        pytest.skip("the notebook is committed with other parameters than this report")
    tables = "\n".join(file.read_text() for file in (ROOT / "reports" / name).glob("*.csv"))
    kept = np.sort([float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", tables)])
    for cell in code(run):
        if cell.source.startswith("# NBVAL_CHECK_OUTPUT"):
            for number in numbers("".join(output.text for output in cell.outputs)):
                number = f"{float(number):.5g}"  # a rounded float32 may end in 00003
                digits = len(number.partition(".")[2])
                near = kept[np.abs(kept - float(number)).argmin()]
                assert abs(near - float(number)) <= 0.51 * 10**-digits, f"{number} is in no table of reports/{name}"


# ---- the checks themselves


@pytest.mark.parametrize("column", ["image_drop", "text_increase", "passes"])
def test_a_wrong_number_in_a_table_is_found(column):
    kept = committed("03_benchmark-scenes-objects", "rows.csv", keep_default_na=False).head(8)
    wrong = kept.copy()
    wrong.loc[4, column] += 2
    check_rows(kept.copy(), kept)
    with pytest.raises(AssertionError, match=column):
        check_rows(kept.copy(), wrong)


def test_a_wrong_score_in_a_table_of_scores_is_found():
    """Scores are small: most of them are below 0.05."""
    kept = committed("08_remote_sensing", "patches.csv")
    wrong = kept.copy()
    wrong.loc[wrong.score.abs().sub(0.03).abs().idxmin(), "score"] = 0.0
    check(kept.copy(), kept)
    with pytest.raises(AssertionError, match="score"):
        check(wrong, kept)
