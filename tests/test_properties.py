"""Table 1: what the experiments find of methods whose properties are known, and of planted offences."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from nibkit.attribution import Attribution
from nibkit.methods import METHODS
from nibkit.study import subjects, table1
from nibkit.study.properties import PROPERTIES, Explained, Subject, examine, silenced
from nibkit.study.subjects import attribution

TEXTS = ["a bus", "a tree", "a dog", "a cat on grass"]


@pytest.fixture(scope="module")
def pairs(golden_pair):
    pixels, ids = golden_pair
    return pixels[:2], ids[:2]


@pytest.fixture(scope="module")
def others(golden_clip):
    return table1.structures(golden_clip)


@pytest.fixture(scope="module")
def train():
    return torch.randn(20, 3, 224, 224, generator=torch.Generator().manual_seed(0)), [TEXTS[k % 4] for k in range(20)]


def verdicts(subject, clip, pairs, others):
    table = examine(subject, clip, *pairs, others)
    assert list(table["property"]) == list(PROPERTIES)
    return dict(zip(table["property"], table["holds"]))


def fails(subject, clip, pairs, others):
    return {name for name, holds in verdicts(subject, clip, pairs, others).items() if not holds}


@pytest.mark.parametrize(
    "name, wanted, options",
    [
        ("nib", {"complete"}, {}),  # ten steps: not the integral
        ("m2ib", {"no randomness", "complete"}, {"samples": 2, "steps": 3}),
        ("chefer", {"no specific structure", "complete"}, {}),
        ("xgrad", {"complete"}, {}),
        ("random", {"no randomness", "no information loss", "complete"}, {}),
        ("centre", {"no information loss", "complete"}, {}),
        ("lime", {"no randomness", "complete"}, {"samples": 16}),
        ("ig", set(), {"baseline": "blur", "steps": 12}),
    ],
)
def test_known_methods(name, wanted, options, golden_clip, pairs, others):
    assert fails(attribution(METHODS[name], **options), golden_clip, pairs, others) == wanted


def test_nib_by_the_exact_rule_has_all_seven(golden_clip, pairs, others):
    subject = attribution(METHODS["nib"], certain={"tol": 1e-3, "max_passes": 512}, rule="exact", max_passes=16)
    assert not fails(subject, golden_clip, pairs, others)


def test_the_papers_other_systems(golden_clip, pairs, others, train):
    made = {
        "cocoa": (subjects.cocoa_subject(TEXTS), {"no extra examples"}),
        "textspan": (subjects.textspan_subject(train[0], TEXTS), {"no extra examples", "no specific structure"}),
        "hossain": (subjects.hossain_subject(*train), {"no extra examples", "no information loss", "complete"}),
        "falcon": (
            subjects.falcon_subject(golden_clip, train[0], TEXTS),
            {"no extra examples", "no information loss", "complete"},
        ),
        "lico": (
            subjects.lico_subject(*train, steps=2, batch=4),
            {*PROPERTIES} - {"no specific structure", "no information loss"},
        ),
        "agi": (
            attribution(METHODS["agi"], {"others": (train[0][:3], golden_clip.tokenize(TEXTS[:3]))}, k=2, steps=2),
            {"no extra examples", "no randomness", "complete"},
        ),
    }
    for name, (subject, wanted) in made.items():
        assert fails(subject, golden_clip, pairs, others) == wanted, name


def test_planted_offences_are_found(golden_clip, pairs, others):
    """A method that needs labels, looks at the rest of the batch, and leaves a weight changed."""

    def run(clip, pixels, ids, seed, labels):
        if not len(labels):
            raise ValueError("no labels")
        return Explained([np.full(3, float(len(ids))) for _ in ids], clip)

    def nudge(clip, pixels, ids, labels):
        clip.model.logit_scale.data += 1e-3
        return 0.0

    weight = golden_clip.model.logit_scale.data.clone()
    try:
        found = fails(Subject(run, nudge, {"labels": ["a"]}, ("labels",)), golden_clip, pairs, others)
    finally:
        golden_clip.model.logit_scale.data.copy_(weight)
    assert found == {PROPERTIES[0], PROPERTIES[3], PROPERTIES[4], PROPERTIES[5]}

    def crowd(clip, pixels, ids, *, seed=0):
        return Attribution(
            np.full((len(ids), 7, 7), len(ids)), [np.full(len(i), len(ids)) for i in ids], 224, pd.DataFrame()
        )

    assert not verdicts(attribution(crowd), golden_clip, pairs, others)["no extra examples"]


def test_a_method_that_draws_from_the_global_generators_is_random_and_they_are_left_alone(golden_clip, pairs, others):
    def draw(clip, pixels, ids, seed):
        return Explained([np.random.rand(2) + torch.rand(2).numpy()], clip)

    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert not verdicts(Subject(draw, lambda *_: 0.0), golden_clip, pairs, others)["no randomness"]
    assert np.array_equal(np.random.get_state()[1], before[0]) and torch.equal(torch.get_rng_state(), before[1])


def test_a_method_that_explains_part_of_the_output_loses_information(golden_clip, pairs, others):
    """A coordinate of the picture's embedding says nothing of the other half; a cosine says something of all."""

    def coordinate(clip, pixels, ids, seed):
        return Explained([clip.embed_image(pixels)[:, 0].numpy()], clip)

    def cosine(clip, pixels, ids, seed):
        return Explained([clip.similarity(pixels, ids).numpy()], clip)

    found = [examine(Subject(run, lambda *_: 0.0), golden_clip, *pairs, others) for run in (coordinate, cosine)]
    assert [table.set_index("property").holds["no information loss"] for table in found] == [False, True]
    assert "same scores without the second half of the picture's" in " ".join(found[0].evidence)


def test_silencing_takes_out_just_what_it_says(golden_clip, pairs):
    whole, texts = golden_clip.embed_image(pairs[0]), golden_clip.embed_text(pairs[1])
    quiet = silenced(golden_clip, 0, slice(32))
    assert torch.equal(quiet.embed_image(pairs[0])[:, :32], whole[:, :32])
    assert not quiet.embed_image(pairs[0])[:, 32:].any() and torch.equal(quiet.embed_text(pairs[1]), texts)
    assert not silenced(golden_clip, 1, slice(0)).embed_text(pairs[1]).any()
    assert torch.equal(golden_clip.embed_image(pairs[0]), whole)


def test_bits_are_compared_on_two_pairs_and_sums_over_all(golden_clip, golden_pair):
    pixels, ids = golden_pair[0][[0, 1, 0]], [golden_pair[1][k] for k in (0, 1, 0)]
    ran, added = [], []

    def run(clip, pixels, ids, seed):
        ran.append(len(ids))
        return Explained([np.ones(1)], clip)

    table = examine(Subject(run, lambda clip, pixels, ids: added.append(len(ids)) or 0.5), golden_clip, pixels, ids, {})
    assert set(ran) == {1, 2} and added == [3]
    assert table.set_index("property").evidence["complete"] == "misses 50.0% of what it explains, worst of 3 pairs"


def test_one_pair_is_too_few(golden_clip, pairs):
    with pytest.raises(ValueError, match="1 pair: whether a score depends on other examples"):
        examine(attribution(METHODS["centre"]), golden_clip, pairs[0][:1], pairs[1][:1], {})


def test_the_papers_ticks_stand_beside_ours(golden_clip, pairs):
    def never(clip, pixels, ids, seed):
        return Explained([np.ones(1)], clip)

    subject = Subject(never, lambda *_: 1.0)
    table = table1.matrix({"m2ib": subject, "centre": subject}, golden_clip, *pairs, {})
    wide = table1.marks(table)
    assert list(wide.columns) == list(PROPERTIES)
    assert list(wide.loc["m2ib"]) == ["✓", "✓ (✗)", "✓", "✗", "✓", "✓", "✗"]
    assert list(wide.loc["centre"]) == ["✓", "✓", "✓", "✗", "✓", "✓", "✗"]
    assert all(set(said) <= set(PROPERTIES) for said in table1.PAPER.values())


def test_every_row_that_the_paper_names_is_there(scenes, train):
    found = subjects.subjects(scenes, *train, TEXTS)
    assert set(table1.PAPER) <= set(found) and {*METHODS} - {"nib"} <= set(found)


def test_captions_are_the_texts_again():
    clip = SimpleNamespace(
        decode=lambda ids: [{1: "a ", 2: "ca", 3: "t "}[i] for i in ids.tolist()], text=SimpleNamespace(before=1)
    )
    assert subjects.captions(clip, [torch.tensor([0, 1, 2, 3, 9])]) == ["a cat"]
