"""The paper's tables, figures and theorems, each with what the reports found about it, in a few words."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd


def cells(folder: Path) -> str:
    """Table 1: how many of the cells that the paper's text settles come out the same."""
    tried = pd.read_csv(folder / "properties.csv").dropna(subset="paper")
    return f"{(tried.holds == tried.paper).sum()} of {len(tried)} ticks and crosses of the paper's text come out"


def order(folder: Path) -> str:
    """Table 2: on how many columns our order of the methods is the paper's, by a rank correlation after Holm."""
    ranks = pd.read_csv(folder / "agreement.csv")
    alike = (ranks.rho > 0) & (ranks.p_holm < 0.05)
    return f"beyond chance, {alike.sum()} of {len(ranks)} columns rank the methods as the paper does"


def curve(folder: Path) -> str:
    """An ablation's table: how many metrics rise and fall with the paper's over the settings."""
    trends = pd.read_csv(folder / "trend.csv").verdict
    against = f", {(trends == 'against').sum()} against it" if (trends == "against").any() else ""
    return f"beyond chance, {(trends == 'with').sum()} of {len(trends)} metrics move with the paper's{against}"


def counts(folder: Path) -> str:
    """Table 8: how many methods take as many passes as the paper counts."""
    same = pd.read_csv(folder / "table8.csv").same
    return f"the counts of {same.sum()} of {len(same)} methods come back exactly"


def speed(folder: Path) -> str:
    """The paper's FPS: how many methods NIB is faster than."""
    others = pd.read_csv(folder / "speed.times.csv").query("label != 'nib'").dropna()
    ours, paper = ((others[f"{whose} / nib"] < 1).sum() for whose in ("ours", "paper"))
    return f"NIB is faster than {ours} of {len(others)} methods here, than {paper} in the paper"


def animals(folder: Path) -> str:
    """Figure 1: does NIB's published sum score the animal that a text names above the other?"""
    scores = pd.read_csv(folder / "negative_property.csv")
    scores = scores[scores.method == scores.method[0]].set_index(["text", "inside"]).score.unstack()
    named = {text: [animal for animal in scores if animal in text.split()] for text in scores.index}
    one = [(text, animals[0]) for text, animals in named.items() if len(animals) == 1]
    right = sum(scores.loc[text].idxmax() == animal for text, animal in one)
    return f"of {len(one)} texts that name one animal, {right} give it the higher mean score"


def retrieved(folder: Path) -> str:
    """Figure 2: for how many captions no other picture has a higher cosine."""
    cosines = pd.read_csv(folder / "cosines.csv", index_col=0)
    return f"{(cosines.idxmax(axis=1) == cosines.index).sum()} of {len(cosines)} captions find their own picture first"


def statements(folder: Path) -> str:
    """How many of the paper's statements follow from its own tables."""
    verdicts = pd.read_csv(folder / "claims.csv").iloc[:, -1]
    return f"{verdicts.isin(['holds', 'yes']).sum()} of {len(verdicts)} statements follow from the paper's tables"


def checks(claims: str) -> Callable[[Path], str]:
    """The checks of notebook 01 whose claim fits a regular expression."""

    def verdict(folder: Path) -> str:
        table = pd.read_csv(folder / "verdicts.csv")
        table = table[table.claim.str.contains(claims)]
        failed = table.claim[table.verdict != "holds"]
        said = f"{len(table) - len(failed)} of {len(table)} checks hold"
        return f"{said}; not: {'; '.join(failed)}" if len(failed) else said

    return verdict


@dataclass(frozen=True)
class Item:
    """One thing in the paper. notebook: the stem of the one that is about it. verdict: takes the folder of a run."""

    name: str
    what: str
    notebook: str
    verdict: Callable[[Path], str]


ITEMS = (
    Item("Table 1", "six properties of methods", "10_related_methods", cells),
    Item("Table 2", "benchmark", "03_benchmark", order),
    Item("Table 2, FPS", "speed", "07_efficiency", speed),
    Item("Tables 3, 6", "number of steps", "04_num_steps", curve),
    Item("Tables 4, 7", "layer", "05_target_layer", curve),
    Item("Table 5", "beta of M2IB", "06_m2ib_beta", curve),
    Item("Table 8", "passes", "07_efficiency", counts),
    Item("Figure 1", "one picture, three texts", "02_single_example", animals),
    Item("Figure 2", "remote sensing", "08_remote_sensing", retrieved),
    Item("Theorem 1", "information grows with lam", "01_theory_check", checks("^Theorem 1")),
    Item("Theorem 2", "the noise can be dropped", "01_theory_check", checks("^Theorem 2|^At s = 0")),
    Item("Theorem 3", "F(Z) − F(0) is an integral", "01_theory_check", checks(r"^Theorem 3|exact rule|limit F\(0\+\)")),
    Item("Axioms", "two axioms", "01_theory_check", checks("^Completeness|^Implementation|another function")),
    Item("Appendix G", "one lam for all", "01_theory_check", checks("^Appendix G")),
    Item("Text", "what the paper says of its tables", "00_index", statements),
)


def items(out: Path, runs: list[dict]) -> list[dict]:
    """For the overview: each of ITEMS with its verdict for every one of these runs that is about it.

    A run that asked something else (two betas, a picture without masks) may leave a table out, or columns of it: then
    the verdict says where to look.
    """
    found = []
    for item in ITEMS:
        verdicts = []
        for run in runs:
            stem, _, data = run["name"].partition("-")
            if stem != item.notebook or run["status"] != "ok":
                continue
            try:
                said = item.verdict(out / run["name"])
            except (OSError, LookupError, ValueError, AttributeError):
                said = "see the report"
            verdicts.append({"run": data or stem[:2], "url": run["url"], "verdict": said})
        found.append({"name": item.name, "what": item.what, "verdicts": verdicts})
    return found
