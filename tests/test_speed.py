"""The bench: what it counts, checks and draws. Nothing here looks at a clock."""

import functools
import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from near import assert_near

import nibkit
from nibkit.__main__ import main
from nibkit.study import efficiency, speed

NIB = {"nib": ("nib", {"steps": 2})}


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        for name, options in {"matrix_rate": {"size": 256}, "measure": {"budget": 0}, "scaling": {"most": 2}}.items():
            patch.setattr(speed, name, functools.partial(getattr(speed, name), **options))
        yield


@pytest.fixture(scope="module")
def rows(golden_clip):
    methods = NIB | {"gae": ("gae", {}), "nib, 4 steps": ("nib", {"steps": 4})}
    return {(row["method"], row["batch"]): row for row in speed.measure(golden_clip, methods, [1, 3])}


def test_rows(rows):
    assert list(rows) == [(m, b) for m in ("nib", "gae", "nib, 4 steps", "metrics of one method") for b in (1, 3)]
    for row in rows.values():
        assert row["seconds"] > 0 and row["gflop"] > 0 and row["rate"] > 0 and row["error"] == 0
    assert [rows[m, 1]["passes"] for m in ("nib", "gae", "nib, 4 steps")] == [2, 1, 4]


def test_work_is_counted_per_pair(rows, golden_clip):
    """Two more steps at layer 9: two passes through blocks 9, 10 (whole) and 11 (one row), forward and backward."""
    more = rows["nib, 4 steps", 3]["gflop"] - rows["nib", 3]["gflop"]

    def block(t, rows, c=64):
        """Keys and values, queries and outputs, both layers of the MLP; attention: 2 products, 5 on the way back."""
        linear = t * 2 * c**2 + rows * 2 * c**2 + rows * 2 * 4 * c**2
        return 2 * 2 * linear + 2 * (2 + 5) * rows * t * c

    head = 2 * 2 * 64**2
    assert more * 1e9 == pytest.approx(2 * sum(2 * block(t, t) + block(t, 1) + head for t in (50, 12)), rel=0.01)
    assert rows["nib", 3]["gflop"] == pytest.approx(rows["nib", 1]["gflop"], rel=0.1)


def test_naive_loops_where_there_are_some(rows):
    assert rows["nib", 1]["naive_seconds"] == rows["nib", 3]["naive_seconds"] > 0
    assert rows["nib", 1]["speedup"] == pytest.approx(rows["nib", 1]["naive_seconds"] / rows["nib", 1]["seconds"])
    assert math.isnan(rows["gae", 1]["naive_seconds"]) and math.isnan(rows["gae", 1]["speedup"])


def test_methods_of_one_pair_share_work(golden_clip):
    """The last row: what both need is there once, the metrics of each are not."""
    methods = NIB | {"chefer": ("chefer", {}), "gae": ("gae", {})}
    nib, chefer, gae, metrics, both = speed.measure(golden_clip, methods, [1])
    assert (both["method"], both["batch"]) == ("2 methods, metrics", 1) and math.isnan(both["passes"])
    saved = 0.7 * metrics["gflop"]  # an embedding of the pair, less what metrics need once: a text without BOS, EOS
    assert both["gflop"] < nib["gflop"] + chefer["gflop"] + 2 * metrics["gflop"] - saved
    assert both["gflop"] > nib["gflop"] + 2 * metrics["gflop"]
    assert both["naive_seconds"] == nib["naive_seconds"] + chefer["naive_seconds"]


@pytest.mark.parametrize("name", efficiency.PUBLISHED)
def test_naive_loops_take_the_gradients_of_all_weights(name, golden_clip, golden_pair, monkeypatch):
    asked = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda y, x, **k: asked.append(len(x)) or grad(y, x, **k))
    pair = golden_pair[0][:1], golden_pair[1][:1]
    options = {"masks": 4, "text_masks": 4} if name == "rise" else {}
    frozen = efficiency.published(golden_clip, name, *pair, **options)
    few = len(asked)
    all_weights = efficiency.published(golden_clip, name, *pair, weights=True, **options)
    n = len(list(golden_clip.model.parameters()))
    assert name == "rise" or (max(asked[:few]) < 4 and min(asked[few:]) > n)
    assert_near(all_weights.image, frozen.image, 1e-5)
    assert not any(p.requires_grad for p in golden_clip.model.parameters())


def test_peak_memory_is_that_of_the_run():
    if math.isnan(speed.peak(lambda: None, torch.device("cpu"))):
        pytest.skip("known on Linux and CUDA only")
    megabytes = speed.peak(lambda: torch.ones(50_000_000), torch.device("cpu"))
    assert 180 < megabytes < 230


def test_half_precision_is_close_and_says_how_close(golden_clip):
    [row] = [r for r in speed.measure(golden_clip, NIB, [2], "bf16", naive=False) if r["method"] == "nib"]
    assert 1e-5 < row["error"] < 0.05
    with speed.precision(golden_clip, "bf16") as half:
        a = nibkit.METHODS["rise"](half, *speed.pairs(half, 1), masks=20, text_masks=5)
        assert half.embed_image(speed.pairs(half, 1)[0]).dtype == torch.float32
    assert a.image.dtype == np.float32 and np.isfinite(a.image).all()


def test_precision_is_put_back_and_refused(golden_clip):
    before = torch.get_float32_matmul_precision()
    with speed.precision(golden_clip, "bf16") as half:
        shared = [next(clip.model.parameters()).data_ptr() for clip in (half, golden_clip)]
        assert shared[0] == shared[1] and half.dtype == torch.bfloat16 and golden_clip.dtype == torch.float32
    assert torch.get_float32_matmul_precision() == before
    for dtype, message in (("fp8", "'fp8' is not one of: float32, tf32, bf16"), ("tf32", "a mode of NVIDIA GPUs")):
        with pytest.raises(ValueError, match=message):
            next(speed.measure(golden_clip, NIB, dtype=dtype))


def test_plan():
    assert list(speed.plan(["nib", "gae"])) == ["nib", "nib exact (to 1 %)", "gae"]
    assert speed.plan(["rise"]) == {"rise (20 masks)": ("rise", {"masks": 20, "text_masks": 20})}
    with pytest.raises(ValueError, match="method='nip' is not one of: nib, m2ib"):
        speed.plan(["nip"])


def test_the_command(capsys, tmp_path):
    few = ["bench", "--model", "scenes", "--methods", "chefer", "--batch", "2", "--device", "cpu"]
    assert main([*few, "--json", "--figure", str(tmp_path / "cost.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in found["rows"]] == ["chefer", "metrics of one method"]
    assert found["rows"][1]["naive_seconds"] is None and found["where"].startswith("scenes, float32, cpu")
    assert (tmp_path / "cost.png").stat().st_size > 10_000
    table = pd.read_csv(tmp_path / "cost.png.csv")
    assert set(table.of) == {"pairs", "steps", "layer"} and (table.seconds > 0).all()
    for wrong in (["--methods", "nip"], ["--batch", "0"], ["--dtype", "half"]):
        assert main(["bench", "--model", "scenes", "--device", "cpu", *wrong]) == 2


def test_work_grows_in_straight_lines(golden_clip):
    table = speed.scaling(golden_clip, most=4)
    pairs, steps, layers = (table[table.of == of].set_index("n").gflop for of in ("pairs", "steps", "layer"))
    assert (list(pairs.index), list(steps.index), list(layers.index)) == (
        [1, 2, 4],
        [1, 2, 5, 10, 15, 20],
        [*range(12)],
    )
    for line, steepness in ((pairs, 1), (steps, 1), (layers.iloc[:11], -1)):  # the last block works for one row alone
        slopes = np.diff(line) / np.diff(line.index)
        np.testing.assert_allclose(slopes, slopes[0], rtol=1e-3)
        assert np.sign(slopes[0]) == steepness
    speed.draw(axes := Figure().subplots(1, 4), table)
    assert [list(axes[k].lines[-1].get_xdata()) for k in (0, 2, 3)] == [list(x.index) for x in (pairs, steps, layers)]
    np.testing.assert_allclose(axes[1].lines[0].get_ydata().astype(float) * table.seconds[:3], [1, 2, 4])


def test_scaling_has_the_median_and_the_range_of_its_calls(golden_clip, monkeypatch):
    clock = itertools.cycle([3.0, 1.0, 5.0])
    monkeypatch.setattr(speed, "timed", lambda run, device: next(clock))
    table = speed.scaling(golden_clip, most=2, repeats=3)
    assert set(table.seconds) == {3} and set(table.fastest) == {1} and set(table.slowest) == {5}
    speed.draw(axes := Figure().subplots(1, 4), table)
    whisker = axes[1].collections[0].get_segments()[0]
    np.testing.assert_allclose(whisker[:, 1], [1 / 5, 1])
