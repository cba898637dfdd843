"""The README's snippets print what the README says, one after the other as a reader would run them."""

import re
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_snippets_print_their_answers():
    pytest.importorskip("quantus", reason="one snippet shows Quantus, which is optional: pip install 'nibkit[quantus]'")
    blocks, names = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL), {}
    snippets = [(code, printed) for (kind, code), (_, printed) in pairwise(blocks) if kind == "python"]
    assert len(snippets) >= 2
    for code, printed in snippets:
        out = StringIO()
        with redirect_stdout(out):
            exec(compile(code, "README.md", "exec"), names)
        assert out.getvalue().strip() == printed.strip()
