"""What methods share on the same inputs: computed once, the same bits, nothing kept."""

import gc
import weakref

import numpy as np
import pandas as pd
import pytest
import torch

import nibkit
from nibkit.models import sharing
from nibkit.models.sharing import once, shared
from nibkit.models.towers import Block

QUICK = {
    "rise": {"masks": 4, "text_masks": 4},
    "m2ib": {"samples": 2, "steps": 2},
    "mfaba": {"steps": 2},
    "ig": {"steps": 2},
    "lime": {"samples": 8},
    "agi": {"k": 1, "steps": 1},
}


@pytest.fixture
def blocks_run(monkeypatch):
    """One entry per block applied: the rows it worked on."""
    log = []
    for name in ("__call__", "at_row", "from_attention"):
        real = getattr(Block, name)
        monkeypatch.setattr(
            Block, name, lambda self, x, *a, real=real, **k: log.append(len(x)) or real(self, x, *a, **k)
        )
    return log


def everything(clip, pixels, ids):
    found = {}
    for name, run in nibkit.METHODS.items():
        a = run(clip, pixels, ids, **QUICK.get(name, {}))
        found[name] = a, nibkit.metrics.confidence(clip, pixels, ids, a.heatmap(), a.word_scores())
    return found


def test_the_same_bits(golden_clip, golden_pair):
    apart = everything(golden_clip, *golden_pair)
    with shared():
        together = everything(golden_clip, *golden_pair)
    for name, (a, table) in apart.items():
        b, other = together[name]
        assert (a.image == b.image).all() and all(map(np.array_equal, a.text, b.text)), name
        pd.testing.assert_frame_equal(table, other, check_exact=True)


def test_a_second_method_runs_no_block_again(golden_clip, golden_pair, blocks_run):
    chefer, saliency = nibkit.METHODS["chefer"], nibkit.METHODS["saliency"]
    with shared():
        chefer(golden_clip, *golden_pair)
        first = len(blocks_run)
        saliency(golden_clip, *golden_pair)
        golden_clip.similarity(*golden_pair)
        assert first > 0 and len(blocks_run) == first
        saliency(golden_clip, golden_pair[0].clone(), golden_pair[1])  # another object: another picture
        assert len(blocks_run) > first


def test_by_itself_a_method_runs_the_lower_blocks_once(golden_clip, golden_pair, blocks_run):
    golden_clip.similarity(*golden_pair)
    both = len(blocks_run)
    nibkit.METHODS["xgrad"](golden_clip, *golden_pair)
    assert len(blocks_run) - both == both + 2 * 3  # blocks 9, 10, 11 once more, with a gradient


def test_a_state_goes_on_from_the_one_below(golden_clip, golden_pair, blocks_run):
    tower, ids = golden_clip.text, golden_pair[1]
    with shared():
        nine = tower.state(ids, 9)
        assert len(blocks_run) == 9
        assert tower.state(ids, 9) is nine and len(blocks_run) == 9
        ten = tower.state(ids, 10)
        assert len(blocks_run) == 10
        embedding = tower.encode(ids)
        assert len(blocks_run) == 12
    assert torch.equal(ten.tokens, tower.state(ids, 10).tokens) and torch.equal(embedding, golden_clip.embed_text(ids))


def test_states_are_one_pass(golden_clip, golden_pair, blocks_run):
    states = golden_clip.image.states(golden_pair[0])
    assert len(blocks_run) == 11 and len(states) == 12
    for layer in (0, 5, 11):
        assert torch.equal(states[layer].tokens, golden_clip.image.state(golden_pair[0], layer).tokens)


def test_nothing_is_kept(golden_clip, golden_pair):
    pixels = golden_pair[0].clone()
    gone = weakref.ref(pixels)
    with shared():
        state = weakref.ref(golden_clip.image.state(pixels, 3).tokens)
        del pixels
        assert gone() is not None and state() is not None
    gc.collect()
    assert gone() is None and state() is None
    with pytest.raises(ZeroDivisionError), shared():
        raise ZeroDivisionError
    assert once(("a",), lambda: 1) == 1 and once(("a",), lambda: 2) == 2


def test_names_and_numbers_by_value_objects_by_identity():
    with shared():
        assert [once((key,), lambda n=n: n) for n, key in enumerate(["ab", "a" + "b", 1000, 10**3])] == [0, 0, 2, 2]
        one, other = [1], [1]
        assert [once((key,), lambda n=n: n) for n, key in enumerate([one, one, other])] == [0, 0, 2]


def test_seconds_count_what_others_computed(monkeypatch):
    """a: 1 s; b: 2 s and asks for a; c: 4 s and asks for b. Every body is charged for what it uses, once."""
    now = [0.0]
    monkeypatch.setattr(sharing, "_now", lambda: now[0])

    def asks(name, seconds, *others):
        def make():
            for other in others:
                other()
            now[0] += seconds

        return lambda: once((name,), make)

    a = asks("a", 1)
    b = asks("b", 2, a)
    c = asks("c", 4, b)

    def seconds(*parts):
        with sharing.timed() as clock:
            for part in parts:
                part()
            now[0] += 0.5
        return clock.seconds

    with shared():
        assert [seconds(b), seconds(b), seconds(a, b), seconds(c), seconds(c, a), seconds()] == [
            3.5,
            3.5,
            3.5,
            7.5,
            7.5,
            0.5,
        ]
    assert now[0] == 7 + 6 * 0.5


def test_a_memo_goes_on_where_it_ended(golden_clip, golden_pair, blocks_run):
    pixels, ids = golden_pair
    alone = nibkit.METHODS["nib"](golden_clip, pixels, ids, layer=3)
    memo = sharing.Memo()
    with shared(memo):
        golden_clip.image.states(pixels), golden_clip.text.states(ids)
        golden_clip.similarity(pixels, ids)
    blocks_run.clear()
    with shared(memo):
        golden_clip.image.state(pixels, 3), golden_clip.text.state(ids, 2)
        golden_clip.similarity(pixels, ids)
        assert not blocks_run
        again = nibkit.METHODS["nib"](golden_clip, pixels, ids, layer=3)
    assert (again.image == alone.image).all() and (again.text[0] == alone.text[0]).all()
    assert sharing._memo.get() is None
