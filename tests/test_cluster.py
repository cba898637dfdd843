"""Rows from two worker processes, one of which is killed in the middle: those of a run without workers."""

import os
import signal

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import nibkit
from nibkit.__main__ import main
from nibkit.benchmark import cluster, run
from nibkit.data import DataError

dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed")

METHODS = {"nib": ("nib", {"steps": 2}), "chefer": ("chefer", {}), "random": ("random", {})}


class Pairs(list):
    name = "noise"


class Pair:
    def __init__(self, k, killer=None, here=False):
        self.id, self.text, self.k = f"noise/{k}", f"a {'red ' * (k % 3)}dog", k
        self.killer, self.here, self.home = killer, here, os.getpid()

    @property
    def image(self):
        if self.killer and os.getpid() != self.home and not os.path.exists(self.killer):
            open(self.killer, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.k == 3 or (self.here and os.getpid() != self.home):
            raise DataError("no such picture")
        return Image.fromarray(np.random.default_rng(self.k).integers(0, 256, (40, 30, 3), np.uint8))


@pytest.fixture(scope="module")
def client():
    """Two workers, forked from one process that has imported everything: one that dies is back at once."""
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        modules = ["distributed", "nibkit.benchmark.runner", "transformers.models.clip.modeling_clip"]
        distributed.utils.get_mp_context().set_forkserver_preload(modules)
        options = {
            "n_workers": 2,
            "threads_per_worker": 1,
            "dashboard_address": "127.0.0.1:0",
            "env": {"WHERE": "a worker"},
        }
        with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
            yield client


def go(clip, dataset, **options):
    return run(clip, dataset, METHODS, batch=2, progress=False, **options)


def test_a_worker_is_killed_in_the_middle(client, golden_clip, tmp_path):
    killer, out = tmp_path / "killed", tmp_path / "rows.csv"
    alone = go(golden_clip, Pairs(map(Pair, range(11))))
    rows = go(golden_clip, Pairs(Pair(k, str(killer) if k == 6 else None) for k in range(11)), out=out, client=client)
    assert killer.exists()
    pd.testing.assert_frame_equal(rows.drop(columns="seconds"), alone.drop(columns="seconds"), check_exact=True)
    assert list(rows.error[9:12]) == ["DataError: no such picture"] * 3 and (rows.error.drop([9, 10, 11]) == "").all()
    assert list(pd.read_csv(out).pair) == list(rows.pair)
    before = out.read_bytes()
    go(golden_clip, Pairs(map(Pair, range(11))), out=out, client=client)  # all there: nothing is done again
    assert out.read_bytes() == before


def test_the_model_is_held_once(client, golden_clip):
    go(golden_clip, Pairs(map(Pair, range(8))), client=client)
    found = client.run(lambda: cluster._model.cache_info())
    assert all(info.currsize == 1 and info.misses == 1 for info in found.values())


def test_a_worker_without_the_data_says_so(client, golden_clip):
    with pytest.raises(RuntimeError, match=r"worker .*, process \d+ cannot read pair 'noise/1', which can be read"):
        go(golden_clip, Pairs([Pair(0), Pair(1, here=True)]), client=client)


def test_a_worker_without_the_model_or_with_another_says_so(client, golden_clip, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setitem(golden_clip.source, "name", f"hf:{tmp_path / 'gone'}")
        with pytest.raises(RuntimeError, match=r"worker .* cannot load 'hf:.*gone'"):
            go(golden_clip, Pairs([Pair(0)]), client=client)
    monkeypatch.setattr(cluster, "checksum", lambda clip: "12345678")
    with pytest.raises(RuntimeError, match="its weights are others"):
        go(golden_clip, Pairs([Pair(0)]), client=client)


def test_a_model_of_unknown_origin_is_refused(client, golden_clip):
    with pytest.raises(ValueError, match="was not made by nibkit.load"):
        go(golden_clip.around(golden_clip.model), Pairs([Pair(0)]), client=client)
    assert nibkit.load("scenes", device="cpu").source["name"] == "scenes"


def test_reports_on_a_cluster(client, tmp_path):
    import nbformat

    from nibkit.reports.runner import run_reports

    folder = tmp_path / "notebooks"
    folder.mkdir()
    code = "import os; print(os.environ['WHERE'])"
    cells = [nbformat.v4.new_markdown_cell("# Who?"), nbformat.v4.new_code_cell(code)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "01_who.ipynb")
    [record] = run_reports(folder, tmp_path / "reports", client=client)
    assert (record["name"], record["status"]) == ("01_who", "ok")
    assert "a worker" in (tmp_path / "reports" / "01_who.html").read_text(encoding="utf-8")


def test_no_scheduler_is_a_sentence(capsys, monkeypatch):
    def nobody(address, timeout):
        raise OSError("Timed out")

    monkeypatch.setattr(distributed, "Client", nobody)
    assert main(["reports", "--dask", "tcp://127.0.0.1:9", "--only", "01"]) == 2
    assert "no Dask scheduler answers there (Timed out)" in capsys.readouterr().err
