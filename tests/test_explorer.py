"""The panel answers with the package's own numbers, and with a sentence where it has none."""

import base64
import io
import re
from datetime import datetime

import ipywidgets
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import nibkit
from nibkit import explorer, plots
from nibkit.explorer import DRAWN, GIVEN, Explorer
from nibkit.explorer.__main__ import measure
from nibkit.models.towers import State
from nibkit.plots import number
from nibkit.scenes import world

TEXT = "a cat and a dog"


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """No sketches, however slow this machine is."""
    monkeypatch.setattr(explorer, "PATIENCE", float("inf"))


@pytest.fixture(scope="module")
def picture():
    return nibkit.data.load("cat-and-dog")[0].image


@pytest.fixture
def panel(scenes, picture):
    return nibkit.explore(scenes, picture, TEXT)


@pytest.fixture(scope="module")
def used(scenes, picture):
    """One panel for many questions, as people use it."""
    return nibkit.explore(scenes, picture, TEXT)


def upload(panel, content: bytes, name="photo.png"):
    """What the browser does."""
    file = {"name": name, "type": "image/png", "size": len(content), "content": memoryview(content)}
    if ipywidgets.__version__ < "8":
        panel.upload.value = {name: {"metadata": {}, "content": content}}
    else:
        panel.upload.value = ({**file, "last_modified": datetime(2026, 1, 1)},)


def encoded(image, kind="PNG", **how):
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def shown(panel):
    """What is drawn, RGB: the picture and its map; a failure where the panel shows a sentence instead."""
    assert panel.message.value == "" and panel.answer.layout.visibility == "visible"
    drawn = re.findall("base64,([^\"]+)", panel.map.value)
    return np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in drawn])


def sentence(panel):
    assert panel.answer.layout.visibility == "hidden"
    assert "Traceback" not in panel.message.value
    return panel.message.value


def test_every_move_of_a_slider_shows_what_explain_says(panel, scenes, picture):
    assert isinstance(panel, Explorer)
    for layer, steps, rule in ((9, 10, "riemann"), (2, 10, "riemann"), (2, 3, "gauss"), (11, 3, "exact")):
        panel.layer.value, panel.steps.value, panel.rule.value = layer, steps, rule
        want = nibkit.explain(scenes, picture, TEXT, layer=layer, steps=steps, rule=rule)
        assert (panel.result().attribution.image == want.image).all()
        assert (panel.result().attribution.text[0] == want.text[0]).all()
        assert f"{want.info.passes[0]} passes" in panel.facts.value
        shown(panel)


def test_one_forward_pass_serves_all_layers_and_texts(panel, scenes, monkeypatch):
    passes = []
    for tower in (scenes.image, scenes.text):
        monkeypatch.setattr(tower, "rows", lambda x, tower=tower, rows=tower.rows: passes.append(tower.name) or rows(x))
    for layer in (0, 11, 5):
        panel.layer.value = layer
    assert passes == []  # the panel's first answer was enough
    panel.text.value = "a dog"
    assert passes == ["text"]
    panel.picture.value = panel.picture.options[3]
    assert passes == ["text", "image"] or passes == ["text", "image", "text"]
    shown(panel)


def test_a_result_seen_before_is_not_computed_again(panel):
    first = panel.map.value
    panel.layer.value = 5
    asked = panel._result.cache_info().misses
    panel.layer.value = 9
    assert panel.map.value == first and panel._result.cache_info().misses == asked == 2


def test_what_would_take_too_long_is_sketched_in_fewer_steps_and_says_so(panel, scenes, picture, monkeypatch):
    monkeypatch.setattr(explorer, "PATIENCE", 1.0)
    shown_with = []
    panel.map.observe(lambda change: shown_with.append(panel.facts.value), "value")
    said = []
    panel.message.observe(lambda change: said.append(change.new), "value")
    panel._pace = explorer.PATIENCE / (3.5 * (11 - 4 + 0.3))  # 3 steps from layer 4 fit, 10 do not
    panel.layer.value = 4
    assert "Computing nib: rule riemann, layer 4, steps 10<" in said[0] and "A sketch in 3 of 10 steps" in said[1]
    assert len(shown_with) == 2 and said[2:] == [panel.message.value] == [""]
    assert "3 passes" in shown_with[1] and "10 passes" in panel.facts.value  # the facts before each picture's own
    assert (panel.result().attribution.image == nibkit.explain(scenes, picture, TEXT, layer=4).image).all()
    panel._pace, asked = 1.0, len(shown_with)
    panel.layer.value = 9
    panel.layer.value = 4
    assert len(shown_with) == asked + 2  # answered before: no sketch
    panel._pace = 1.0
    panel.rule.value = "exact"
    assert sum("sketch" in message for message in said) == 1


def test_facts_are_the_cosine_the_closed_bottleneck_and_the_gap(panel, scenes, picture):
    pixels, ids = scenes.preprocess(picture), scenes.tokenize(TEXT)
    towers = [(scenes.image, pixels), (scenes.text, ids)]
    embeddings = [tower.encode(x) for tower, x in towers]
    rows = explorer.table(explorer.facts(panel.result()))
    assert number(scenes.similarity(pixels, ids).item(), ".4f") in rows
    for (tower, x), target, side in zip(towers, reversed(embeddings), ("image", "text")):
        state = tower.state(x, 9)
        closed = torch.nn.functional.cosine_similarity(
            tower.embed(State(0 * state.tokens, state.readout), 9), target
        ).item()
        gap = nibkit.explain(scenes, picture, TEXT).info[f"gap_{side}"][0]
        assert f"<td>{number(closed, '.4f')}</td>" in rows and f"<td>{gap:.4f} (" in rows
    panel.method.value = "chefer"
    assert "F(Z)" in panel.facts.value and "gap" not in panel.facts.value  # only NIB's scores are to add up


def test_controls_that_a_method_ignores_are_disabled(panel, monkeypatch):
    quick = {"rise": {"masks": 8, "text_masks": 8}, "m2ib": {"samples": 2}, "lime": {"samples": 8}, "agi": {"k": 1}}
    monkeypatch.setattr(explorer, "FEWER", quick)
    found = {}
    for method in nibkit.METHODS:
        panel.method.value = method
        assert panel.message.value == ""
        found[method] = "".join(c.description[0] for c in (panel.layer, panel.steps, panel.rule) if not c.disabled)
    few = {"nib": "LSR", "m2ib": "LS", **dict.fromkeys(("mfaba", "ig", "agi"), "S")}
    few |= dict.fromkeys(("gradcam", "gradcam_pooled", "xgrad"), "L")
    assert found == {**dict.fromkeys(nibkit.METHODS, ""), **few}
    panel.method.value, panel.rule.value = "nib", "exact"
    assert panel.steps.disabled and not panel.layer.disabled


def test_units_and_raw_range_are_on_the_map(panel, monkeypatch):
    monkeypatch.setattr(explorer, "FEWER", {"rise": {"masks": 8, "text_masks": 8}})
    for method, unit in (
        ("nib", "cosine / patch"),
        ("m2ib", "nats / patch"),
        ("rise", "cosine / pixel"),
        ("random", "no unit"),
    ):
        panel.method.value = method
        scores = panel.result().scores
        low, high = (number(end, "+.3g") for end in (scores.min(), scores.max()))
        limit = f"{np.abs(scores).max():.3g}"
        for panel.view.value, left, right, said in (
            ("signed", f"−{limit}", f"+{limit}", "red speaks for the text"),
            ("heat", low, high, "bright is high"),
        ):
            assert f"<span>{left}</span><span>{unit}</span><span>{right}</span>" in panel.map.value
            assert said in panel.map.value and "-0" not in re.sub("<[^>]*>", "", panel.map.value)
            assert f"raw scores {low} to {high}<" in panel.map.value and f", {low} to {high} {unit};" in panel.map.value


@pytest.mark.parametrize("view", ["signed", "heat"])
def test_the_map_is_the_one_that_plots_draws(used, view):
    used.view.value, used.strength.value = view, {"signed": 0.6, "heat": 1}[view]
    a, picture = used.result().attribution, used.result().picture
    fig = Figure(figsize=(4, 4), dpi=56)  # 224 pixels, as the picture has
    canvas, ax = FigureCanvasAgg(fig), fig.add_axes((0, 0, 1, 1))
    if view == "signed":
        plots.overlay(ax, picture, a.signed_map()[0])
        fig.axes[1].set_visible(False)  # the colour bar
    else:
        plots.heat(ax, picture, a.heatmap()[0])
    ax.set_position((0, 0, 1, 1))
    canvas.draw()
    want = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    assert np.abs(shown(used)[1] - want).max() <= 3


def test_view_and_strength_redraw_without_asking_the_model(panel):
    pictures, asked = [shown(panel)], panel._result.cache_info().misses
    panel.strength.value = 0.1
    pictures.append(shown(panel))
    panel.view.value = "heat"
    pictures.append(shown(panel))
    assert all((a != b).any() for a, b in zip(pictures, pictures[1:]))
    panel.strength.value = 0  # the picture itself, twice
    assert (shown(panel)[0] == shown(panel)[1]).all()
    assert panel._result.cache_info().misses == asked


def test_words_are_joined_coloured_and_escaped(panel, scenes):
    panel.text.value = "a <b>skateboarding</b> cat"
    assert "<b>" not in panel.words.value and "&lt;b&gt;" not in panel.text.value
    words = panel.result().words
    assert "skateboarding" in [word for word, _ in words] and "startoftext" not in panel.words.value
    assert all(number(score, "+.4f") in panel.words.value for _, score in words)
    highest = max(words, key=lambda w: abs(w[1]))
    # the ends of the colour map
    assert f"background: {'#67001f' if highest[1] > 0 else '#053061'}" in panel.words.value


def test_the_editor_asks_counterfactual_questions(panel, scenes, picture):
    assert panel.editor.layout.display == "none"
    panel.picture.value = DRAWN
    assert panel.editor.layout.display == ""
    assert panel.scene() == world.CAT_AND_DOG and np.array_equal(world.render(panel.scene())[0], picture)
    def ask(scene):
        return scenes.similarity(world.render(scene)[0], TEXT).item()
    without = {name: ask(world.counterpart(world.CAT_AND_DOG, name)) for name in ("cat", "dog")}
    assert panel.result().without == pytest.approx(without, abs=1e-5)
    assert f"F(Z) without the cat</th><td>{number(without['cat'], '.4f')} (" in panel.facts.value

    name, across, down, size = panel.slots[0].children
    name.value = "nothing"
    assert panel.scene() == world.counterpart(world.CAT_AND_DOG, "cat")
    assert panel.result().cosine == pytest.approx(without["cat"], abs=1e-5)
    name.value, across.value, panel.ground.value = "horse", 150, "night"
    scene = panel.scene()
    assert (scene.ground, scene.objects[0].name, scene.objects[0].x, scene.names) == (
        "night",
        "horse",
        150,
        ("horse", "dog"),
    )
    assert panel.result().cosine == pytest.approx(ask(scene), abs=1e-5)
    for row in panel.slots:
        row.children[0].value = "nothing"
    shown(panel)
    assert panel.result().without == {}


def test_bundled_pictures_can_be_chosen(panel, scenes):
    label = panel.picture.options[2]
    panel.picture.value = label
    pair = nibkit.data.load("scenes-captions")[0]
    assert pair.text in label and (panel.result().picture == scenes.picture(scenes.preprocess(pair.image)[0])).all()


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "The text is empty"),
        ("  \t ", "The text is empty"),
        ("cat " * 200, "has 202 tokens; this model reads at most 77: shorten it"),
    ],
)
def test_a_text_that_cannot_be_read_is_answered_by_a_sentence(used, text, says):
    used.text.value = text
    assert says in sentence(used)
    used.text.value = TEXT
    shown(used)


RED, HALF = (200, 30, 20), (128, 128, 128)
FRAMES = [Image.new("RGB", (60, 60), colour) for colour in (RED, (0, 0, 255))]
PICTURES = {
    "20 megapixels": (lambda: encoded(Image.new("RGB", (5472, 3648), RED), "JPEG"), RED),
    "1 x 1": (lambda: encoded(Image.new("RGB", (1, 1), RED)), RED),
    "RGBA": (lambda: encoded(Image.new("RGBA", (50, 70), (0, 0, 0, 0))), (255, 255, 255)),
    "CMYK": (lambda: encoded(Image.new("RGB", (90, 60), RED).convert("CMYK"), "JPEG", quality=95), RED),
    "grey": (lambda: encoded(Image.new("L", (60, 60), 128)), HALF),
    "16-bit grey": (lambda: encoded(Image.new("I;16", (60, 60), 128 * 257)), HALF),
    "animated GIF": (lambda: encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), RED),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_any_picture_can_be_uploaded(used, kind):
    make, colour = PICTURES[kind]
    upload(used, make(), f"{kind}.png")
    assert used.picture.value == f"{kind}.png"
    assert np.abs(shown(used)[0, 100, 100].astype(int) - colour).max() <= 6  # red is red: RGB, not BGR


@pytest.mark.parametrize(
    "content, says",
    [
        (b"not a picture", "photo.png cannot be read as a picture"),
        (b"", "photo.png cannot be read as a picture"),
        (encoded(Image.effect_noise((80, 80), 50))[:900], "photo.png cannot be read as a picture"),
        (encoded(Image.new("RGB", (2, 9000))), "photo.png is 2 x 9000; one side may be at most"),
    ],
    ids=["text", "empty", "cut short", "a line"],
)
def test_a_corrupt_upload_is_answered_by_a_sentence(used, content, says):
    used.text.value = TEXT
    shown(used)
    before = used.picture.options, used.picture.value, used.map.value, used.words.value, used.facts.value
    upload(used, content)
    assert says in used.message.value and used.answer.layout.visibility == "visible"  # the last answer stands
    assert before == (used.picture.options, used.picture.value, used.map.value, used.words.value, used.facts.value)
    upload(used, encoded(Image.new("RGB", (60, 60), RED)), "good.png")
    shown(used)


def test_two_uploads_of_one_name_are_two_pictures(panel):
    for colour in (RED, HALF):
        upload(panel, encoded(Image.new("RGB", (60, 60), colour)))
        assert np.abs(shown(panel)[0, 100, 100].astype(int) - colour).max() <= 6
    assert len([label for label in panel.picture.options if label.startswith("photo.png")]) == 2
    panel.picture.value = GIVEN
    panel.picture.value = "photo.png"  # still there
    assert np.abs(shown(panel)[0, 100, 100].astype(int) - RED).max() <= 6


@pytest.mark.parametrize("name", ["a scene to edit", "the given picture", "captions/0000", ""])
def test_an_upload_may_have_any_name(panel, name):
    before = panel.picture.options
    for colour in (RED, HALF):
        upload(panel, encoded(Image.new("RGB", (60, 60), colour)), name)
        assert np.abs(shown(panel)[0, 100, 100].astype(int) - colour).max() <= 6
        assert panel.editor.layout.display == "none"
    assert panel.picture.options[: len(before)] == before and len(set(panel.picture.options)) == len(before) + 2
    panel.picture.value = "a scene to edit"
    assert panel.editor.layout.display == ""


def test_a_failing_method_does_not_kill_the_panel(panel, monkeypatch):
    def nib(clip, pixels, ids, *, layer=9):
        raise RuntimeError("out of memory\nat some line")

    nib.takes = ("layer",)
    monkeypatch.setitem(nibkit.METHODS, "nib", nib)
    panel.layer.value = 4
    assert "RuntimeError: out of memory" in sentence(panel) and "some line" not in panel.message.value
    monkeypatch.undo()
    panel.layer.value = 5
    shown(panel)


def test_towers_of_different_depth_have_a_slider_each(picture):
    from test_towers import openai_clip  # 8 and 4 blocks

    clip = openai_clip()
    panel = Explorer(clip, picture, TEXT)
    assert (panel.layer.max, panel.text_layer.max) == (7, 3) and panel.text_layer in panel.controls
    panel.layer.value, panel.text_layer.value = 5, 1
    want = nibkit.explain(clip, picture, TEXT, layer=(5, 1))
    assert (panel.result().attribution.image == want.image).all()
    assert (panel.result().attribution.text[0] == want.text[0]).all()


def test_the_figure_holds_what_the_panel_shows(panel):
    panel.text.value = "a photo of a cat and a dog, " * 4
    fig = panel.figure()
    told = [text.get_text() for text in fig.texts]
    assert "F(Z)" in told and number(panel.result().cosine, ".4f") in told and "completeness gap" in told
    words = [text.get_text() for ax in fig.axes[3:] for text in ax.texts]
    assert words.count("photo") == 4 and len(fig.axes) > 5  # more than one line of words
    assert all(ax.get_position().y0 >= 0 for ax in fig.axes)


def test_the_benchmark_prints_times_and_what_is_saved(capsys):
    from test_towers import openai_clip

    measure(openai_clip())
    head, _, *lines, last = capsys.readouterr().out.splitlines()
    assert head.startswith("small on cpu") and lines[0].startswith("layer, each of 0..7")
    assert all(float(a) <= float(b) <= float(c) for a, b, c in (line.split()[-3:] for line in lines))
    assert re.fullmatch(r"of the time .*: \d+\.\d\d with the states, \d+\.\d\d with the result", last)
