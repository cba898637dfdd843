"""Ask one picture with sliders: `nibkit.explore(clip, image, text)`.

A panel of core ipywidgets around `nibkit.explain`. Moving a slider costs the blocks above the layer and one drawing: the states
of all layers come from one forward pass (`sharing.Memo`), and results that were seen before are kept. What would take longer than
PATIENCE is first shown as a sketch in fewer steps, and says so. What goes wrong is said in a sentence in the panel.
`python -m nibkit.explorer` measures how long each move takes.
"""

import argparse
import functools
import gc
import html
import io
import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import ipywidgets as widgets
import torch
from matplotlib import colormaps, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from . import data, plots
from .attribution import Attribution, words
from .checks import ERRORS
from .data import pictures
from .methods import METHODS
from .methods.nib import RULES
from .models import load
from .models.sharing import Memo, shared
from .scenes import world

FEWER = {"rise": {"masks": 500, "text_masks": 100}}  # 6,000 pictures are too many to wait for
GIVEN, DRAWN = "the given picture", "a scene to edit"
EXAMPLES = 6  # bundled pictures in the list
SLOTS = (*world.CAT_AND_DOG.objects, world.Placed("tree", 112, 48, 70))  # the editor's objects; the third starts empty
NOTHING = "nothing"
LINE = 66  # letters of a figure's line of words
PATIENCE = 1.0  # seconds: what would take longer is sketched first, in fewer steps
KNOWN = 2000  # states and the like that are kept of one picture and its texts

STYLE = """<style>
.nibkit-words { display: flex; flex-wrap: wrap; gap: 4px; padding: 2px 0 6px; }
.nibkit-words span { text-align: center; border-radius: 4px; padding: 3px 8px 1px; font-size: 15px; line-height: 1.25; }
.nibkit-words small { display: block; font-size: 10px; opacity: .8; font-variant-numeric: tabular-nums; }
.nibkit-facts { border-collapse: collapse; font-size: 13px; line-height: 1.5; font-variant-numeric: tabular-nums; }
.nibkit-facts td, .nibkit-facts th { padding: 1px 18px 1px 0; text-align: left; font-weight: normal; }
.nibkit-facts th { opacity: .65; }
.nibkit-busy { opacity: .35; transition: opacity .2s .4s; }
.nibkit-note { opacity: .65; padding: 2px 0; font-size: 13px; }
.nibkit-error { border-left: 4px solid #c0392b; background: #c0392b1a; padding: 6px 12px; font-size: 14px; line-height: 1.4; }
</style>"""


class Result(NamedTuple):
    """What is shown of one question: the words with their scores, F(Z), and the cosine without each object of a scene."""

    pixels: Tensor
    attribution: Attribution
    words: list[tuple[str, float]]
    cosine: float
    without: dict[str, float]


class Explorer(widgets.HBox):
    """The panel: controls on the left, map, words and facts on the right. `figure()` draws the same for a report."""

    def __init__(self, clip, image: Image.Image, text: str):
        self.clip = clip
        self._result = functools.lru_cache(128)(self._compute)
        self._picture = functools.lru_cache(8)(lambda picture: (self._pixels(picture), Memo()))
        self._ids = functools.lru_cache(64)(lambda text: clip.tokenize([text]))
        examples = data.load("scenes-captions")[:EXAMPLES]
        self.pixels = {GIVEN: clip.preprocess(image)} | {f"{p.id}: {p.text}": clip.preprocess(p.image) for p in examples}
        self._make_controls(text)
        self.map = widgets.Image(format="png", layout={"width": "98%", "max_width": "800px"})
        self.words, self.facts, self.message = (widgets.HTML() for _ in range(3))
        left = widgets.VBox([*self.controls, self.editor], layout={"width": "340px", "flex": "0 0 340px"})
        shown = [widgets.HTML(STYLE), self.message, self.map, self.words, self.facts]
        right = widgets.VBox(shown, layout={"flex": "1 1 480px", "min_width": "320px", "overflow": "hidden"})
        super().__init__([left, right], layout={"flex_flow": "row wrap", "grid_gap": "8px 28px"})
        self._quiet = False
        self._answered: set[tuple] = set()
        self._pace = 0.0  # seconds of a step through one block, of NIB's last answer; 0: not known
        asking = [self.picture, self.text, self.method, self.rule, self.layer, self.text_layer, self.steps, self.view, self.strength]
        for control in (*asking, self.ground, *(c for row in self.slots for c in row.children)):
            control.observe(self.refresh, "value")
        self.upload.observe(self._take_upload, "value")
        self.refresh()
        gc.freeze()  # or, every few moves, Python walks all that torch has loaded: 0.4 s

    def _make_controls(self, text: str) -> None:
        full, style = {"width": "auto"}, {"description_width": "64px"}
        make = lambda kind, name, **how: kind(description=name, layout=full, style=style, **how)  # noqa: E731
        late = {"continuous_update": False}
        self.picture = widgets.Dropdown(
            options=[GIVEN, DRAWN, *list(self.pixels)[1:]], description="Picture", style=style, layout={"flex": "1 1 auto", "width": "0"}
        )
        self.upload = widgets.FileUpload(accept="image/*", description="Upload", layout={"width": "120px"})
        self.text = make(widgets.Text, "Text", value=text, placeholder="a caption, then Enter", **late)
        self.method = make(widgets.Dropdown, "Method", options=list(METHODS))
        self.rule = make(widgets.Dropdown, "Rule", options=RULES)
        self.layer, self.text_layer = (
            make(widgets.IntSlider, name, value=tower.default_layer, max=len(tower.blocks) - 1, **late)
            for name, tower in (("Layer", self.clip.image), ("of text", self.clip.text))
        )
        self.steps = make(widgets.IntSlider, "Steps", value=10, min=1, max=50, **late)
        self.view = widgets.ToggleButtons(options=["signed", "heat"], style={"button_width": "84px"})
        self.strength = make(widgets.FloatSlider, "Overlay", value=0.6, max=1, step=0.05, readout_format=".2f", **late)
        picture = widgets.HBox([self.picture, self.upload])
        name = widgets.Label("Scores", layout={"width": "64px", "margin": "2px 8px 2px 2px", "justify_content": "flex-end"})
        view = widgets.HBox([name, self.view])  # its own description would stand above the buttons
        one_layer = self.layer.max == self.text_layer.max
        layers = [self.layer] if one_layer else [self.layer, self.text_layer]
        self.controls = [picture, self.text, self.method, self.rule, *layers, self.steps, view, self.strength]

        grounds = {said: name for name, said in world.GROUNDS.items()}
        self.ground = make(widgets.Dropdown, "Ground", options=grounds, value=world.CAT_AND_DOG.ground)
        self.slots = [self._slot(placed, placed in world.CAT_AND_DOG.objects) for placed in SLOTS]
        heads = [widgets.Label(name, layout=self._cell) for name in ("object", "across", "down", "size")]
        self.editor = widgets.VBox([self.ground, widgets.HBox(heads), *self.slots], layout={"margin": "10px 0 0"})

    _cell = {"width": "80px", "min_width": "0"}

    def _slot(self, placed: world.Placed, present: bool) -> widgets.HBox:
        slide = lambda value, low, high: widgets.FloatSlider(  # noqa: E731
            value=value, min=low, max=high, step=2, readout=False, continuous_update=False, layout=self._cell
        )
        name = widgets.Dropdown(
            options=[NOTHING, *world.OBJECTS], value=placed.name if present else NOTHING, layout=self._cell
        )
        return widgets.HBox([name, slide(placed.x, 0, world.SIZE), slide(placed.y, 0, world.SIZE), slide(placed.size, 40, 180)])

    # --- questions ---------------------------------------------------------------------------------------------------

    def scene(self) -> world.Scene:
        """What the editor says."""
        rows = [(placed, [control.value for control in row.children]) for placed, row in zip(SLOTS, self.slots)]
        objects = [replace(p, name=name, x=x, y=y, size=size) for p, (name, x, y, size) in rows if name != NOTHING]
        return replace(world.CAT_AND_DOG, ground=self.ground.value, objects=tuple(objects))

    def result(self) -> Result:
        """The answer to what the controls say; ValueError with a sentence where there is none."""
        return self._result(*self._question())

    def _question(self) -> tuple:
        """What the controls say: picture, text, method and its options."""
        text = " ".join(self.text.value.split())
        if not text:
            raise ValueError("The text is empty: type what the picture may show, such as “a cat”, and press Enter.")
        picture = self.scene() if self.picture.value == DRAWN else self.picture.value
        options = {name: control.value for name, control in self._options().items() if not control.disabled}
        if "layer" in options and self.text_layer in self.controls:
            options["layer"] = self.layer.value, self.text_layer.value
        return picture, text, self.method.value, tuple(options.items())

    def _sketch(self, question: tuple) -> tuple | None:
        """The same question in as few steps of NIB's sum as PATIENCE allows; None where all of them fit, or it was answered."""
        *others, options = question
        options = dict(options)
        if question in self._answered or not self._pace or options.get("rule") not in ("riemann", "gauss"):
            return None
        fit = PATIENCE / (self._pace * self._blocks())
        return (*others, tuple((options | {"steps": max(1, int(fit))}).items())) if fit < options["steps"] > 1 else None

    def _blocks(self) -> float:
        """Blocks of the image tower that a step takes, most of the pair's work; the last runs for its readout row alone."""
        return self.layer.max - self.layer.value + 0.3

    def _options(self) -> dict[str, widgets.Widget]:
        return {"rule": self.rule, "layer": self.layer, "steps": self.steps}

    def _compute(self, picture: str | world.Scene, text: str, method: str, options: tuple) -> Result:
        (pixels, memo), ids = self._picture(picture), self._ids(text)
        if len(ids[0]) < self.clip.text.before + 2:
            raise ValueError(f"“{text}” has no word that this model can read: type another text.")
        if len(memo.known) > KNOWN:
            memo.known.clear()
        with shared(memo):
            for tower, inputs in ((self.clip.image, pixels), (self.clip.text, ids)):
                tower.states(inputs)  # of all layers: whichever is asked for next is there
            a = METHODS[method](self.clip, pixels, ids, **dict(options), **FEWER.get(method, {}))
            cosine = self.clip.similarity(pixels, ids).item()
        names = list(dict.fromkeys(picture.names)) if isinstance(picture, world.Scene) else []
        without = [self._pixels(world.counterpart(picture, name)) for name in names]
        cosines = self.clip.similarity(torch.cat(without), ids * len(names)).tolist() if names else []
        return Result(pixels, a, words(self.clip, ids[0], a.text[0]), cosine, dict(zip(names, cosines)))

    def _pixels(self, picture: str | world.Scene) -> Tensor:
        return self.clip.preprocess(world.render(picture)[0]) if isinstance(picture, world.Scene) else self.pixels[picture]

    # --- answers -----------------------------------------------------------------------------------------------------

    def refresh(self, change=None) -> None:
        """Answer what the controls say now."""
        if self._quiet:
            return
        takes = METHODS[self.method.value].takes
        for name, control in self._options().items():
            control.disabled = name not in takes
        self.text_layer.disabled = self.layer.disabled
        self.steps.disabled |= not self.rule.disabled and self.rule.value == "exact"
        for name, *sliders in (row.children for row in self.slots):
            for slider in sliders:
                slider.disabled = name.value == NOTHING
        self.editor.layout.display = "" if self.picture.value == DRAWN else "none"
        with self._reporting():
            question = self._question()
            if sketch := self._sketch(question):
                self._show(self._result(*sketch))
                self.map.remove_class("nibkit-busy")
                few, steps = (dict(options)["steps"] for *_, options in (sketch, question))
                self.message.value = f'<div class="nibkit-note">A sketch in {few} of {steps} steps; the whole answer follows.</div>'
            result = self._result(*question)
            self._show(result)
            if "rule" in dict(question[-1]) and question not in self._answered:
                info = result.attribution.info.iloc[0]
                self._pace = info.seconds / (info.passes * self._blocks())
            self._answered.add(question)

    def _show(self, result: Result) -> None:
        self.map.value = png(self._draw(result))
        self.words.value, self.facts.value = self._words(result), table(self._facts(result))

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Errors become a sentence above an emptied answer: an old map beside a new question would mislead."""
        said = ""
        self.map.add_class("nibkit-busy")  # pales after 0.4 s
        try:
            yield
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            known = isinstance(error, ERRORS)
            said = lines[0] if known else f"{type(error).__name__}: {lines[0]}"
        self.map.remove_class("nibkit-busy")
        self.message.value = f'<div class="nibkit-error">{html.escape(said)}</div>' if said else ""
        for part in (self.map, self.words, self.facts):
            part.layout.visibility = "hidden" if said else "visible"

    def _take_upload(self, change=None) -> None:
        files = self.upload.value
        files = files.items() if isinstance(files, dict) else [(f["name"], f) for f in files]  # ipywidgets 7, 8
        with self._reporting():
            for name, file in files:
                names = itertools.chain([name], (f"{name} ({k})" for k in itertools.count(2)))
                label = next(free for free in names if free not in self.picture.options)
                self.pixels[label] = self.clip.preprocess(pictures.read(bytes(file["content"]), name))
                self._quiet = True  # new options choose the first one for a moment
                self.picture.options = [*self.picture.options, label]
                self._quiet = False
                self.picture.value = label

    @plots.themed()
    def _draw(self, result: Result, below: float = 0.0) -> Figure:
        """Picture and map, with `below` inches left free under them."""
        width, height = 7.6, 3.55 + below
        fig = Figure(figsize=(width, height), dpi=110)
        FigureCanvasAgg(fig)
        bottom, side = (below + 0.03) / height, 3.25  # inches
        left = fig.add_axes((0.03 / width, bottom, side / width, side / height))
        right = fig.add_axes(((side + 0.15) / width, bottom, 1.07 * side / width, side / height))
        shown, a = self.clip.picture(result.pixels[0]), result.attribution
        scores, unit = a.signed_map()[0], self._unit("patch" if a.image.shape[1:] == self.clip.image.grid else "pixel")
        ends = [f"{end:+.3g}" for end in (scores.min(), scores.max())]
        plots.picture(left, shown)
        if self.view.value == "signed":
            plots.overlay(right, shown, scores, unit=unit, strength=self.strength.value)
        else:
            plots.heat(right, shown, a.heatmap()[0], ends=ends, unit=unit, strength=self.strength.value)
        left.set_title("what the model sees", fontsize=9, color="0.4")
        right.set_title(f"{self.method.value}, raw scores {' to '.join(ends)}", fontsize=9, color="0.4")
        return fig

    def _unit(self, of: str) -> str:
        unit = METHODS[self.method.value].unit
        return f"{unit} / {of}" if unit else "no unit"

    def _words(self, result: Result) -> str:
        limit = max((abs(score) for _, score in result.words), default=0) or 1e-9
        colour, norm, spans = colormaps[plots.SIGNED], Normalize(-limit, limit), []
        for word, score in result.words:
            face = colour(norm(score))
            ink = "white" if sum(face[:3]) / 3 < 0.45 else "black"
            style = f"background: {to_hex(face)}; color: {ink}"
            spans.append(f'<span style="{style}">{html.escape(word)}<small>{score:+.4f}</small></span>')
        return f'<div class="nibkit-words" title="{self._unit("word")}">{"".join(spans)}</div>'

    def _facts(self, result: Result) -> list[tuple[str, ...]]:
        """Rows of name, picture's value, text's value."""
        info = result.attribution.info.iloc[0]
        rows = [("", "picture", "text"), ("F(Z)", f"{result.cosine:.4f}", f"{result.cosine:.4f}")]
        if "change_image" in info:  # NIB's scores are to add up, no other method's
            changes = [(info[f"change_{side}"], info[f"gap_{side}"]) for side in ("image", "text")]
            rows.append(("F(0)", *(f"{result.cosine - change:.4f}" for change, _ in changes)))
            parts = (f"{gap:.4f} ({gap / abs(change or 1e-9):.0%} of F(Z) − F(0))" for change, gap in changes)
            rows.append(("completeness gap", *parts))
        for name, cosine in result.without.items():
            rows.append((f"F(Z) without the {name}", f"{cosine:.4f} ({cosine - result.cosine:+.4f})", ""))
        return [*rows, ("cost", f"{info.passes:g} passes, {1000 * info.seconds:.0f} ms", "")]

    @plots.themed()
    def figure(self) -> Figure:
        """What the panel shows, as a figure for a report: picture, map, words, F(Z), F(0), gap and cost."""
        result = self.result()
        facts, lines = self._facts(result), [[]]
        for word in result.words:
            if sum(len(w) + 3 for w, _ in [*lines[-1], word]) > LINE:
                lines.append([])
            lines[-1].append(word)
        limit = max((abs(score) for _, score in result.words), default=0)
        below = 0.65 * len(lines) + 0.2 * len(facts) + 0.15
        fig = self._draw(result, below)
        width, height = fig.get_size_inches()
        for k, line in enumerate(lines):
            share = min(1, max(0.25, sum(len(w) + 3 for w, _ in line) / LINE))
            ax = fig.add_axes((0.03 / width, (below - 0.65 * (k + 1)) / height, 0.98 * share, 0.6 / height))
            plots.text(ax, line, limit)
        for k, row in enumerate(reversed(facts)):
            for x, cell in zip((0.03, 1.9, 4.6), row):
                grey = "0.4" if x < 1 or row is facts[0] else "0"
                fig.text(x / width, (0.2 * k + 0.1) / height, cell, fontsize=9, color=grey)
        return fig


def table(rows: list[tuple[str, ...]]) -> str:
    """HTML; the first row and the first column are heads."""
    tag = lambda i, k: "th" if 0 in (i, k) else "td"  # noqa: E731
    lines = ["".join(f"<{tag(i, k)}>{cell}</{tag(i, k)}>" for k, cell in enumerate(row)) for i, row in enumerate(rows)]
    return f'<table class="nibkit-facts">{"".join(f"<tr>{line}</tr>" for line in lines)}</table>'


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file, at the figure's own size and dpi."""
    buffer = io.BytesIO()
    with rc_context({"savefig.bbox": None}):  # a tight box would draw everything twice
        figure.savefig(buffer, format="png", dpi=figure.dpi, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def measure(clip) -> None:
    """Print how long each move of the panel takes, and what the kept states and results save."""
    pair = data.load("cat-and-dog")[0]
    panel = Explorer(clip, pair.image, pair.text)

    drawn = []
    panel.map.observe(lambda change: drawn.append(time.perf_counter()), "value")

    def timed(move) -> tuple[float, float]:
        """Until the first picture, which may be a sketch, and until the whole answer."""
        drawn.clear()
        started = time.perf_counter()
        move()
        ended = time.perf_counter()
        if panel.message.value:
            raise RuntimeError(panel.message.value)
        return 1000 * ((drawn or [ended])[0] - started), 1000 * (ended - started)

    def forget() -> None:
        panel._result.cache_clear()
        panel._answered.clear()

    def report(name: str, times: list[tuple[float, float]]) -> None:
        first, whole = zip(*times)
        print(f"{name:<36}{statistics.median(first):>10.0f}{max(first):>10.0f}{max(whole):>10.0f}")

    fresh, kept, again = [], [], []
    for layer in range(panel.layer.max, -1, -1):
        forget()
        panel._picture.cache_clear()
        fresh.append(timed(lambda: setattr(panel.layer, "value", layer) if panel.layer.value != layer else panel.refresh()))
        forget()
        kept.append(timed(panel.refresh))
        again.append(timed(panel.refresh))
    print(f"{clip.name} on {clip.device}, {torch.get_num_threads()} threads: ms from a move to its picture, and to the whole answer")
    print(f"{'move':<36}{'median':>10}{'slowest':>10}{'whole':>10}")
    report(f"layer, each of 0..{panel.layer.max}", kept)
    report("  the same, no state kept", fresh)
    report("  the same, seen before", again)
    panel.layer.value = panel.clip.image.default_layer
    for control, values in {
        panel.steps: range(5, 31, 5),
        panel.text: ["a cat", "a dog", "a cat and a dog on grass"],
        panel.view: ["heat", "signed", "heat"],
        panel.strength: [0.2, 0.4, 0.8],
    }.items():
        report(control.description.lower() or "scores", [timed(lambda: setattr(control, "value", value)) for value in values])
        if control is panel.steps:
            control.value = 10
    ratios = [statistics.median(a / b for (_, a), (_, b) in zip(times, fresh)) for times in (kept, again)]
    print(f"of the time without what is kept: {ratios[0]:.2f} with the states, {ratios[1]:.2f} with the result")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=measure.__doc__)
    parser.add_argument("model", nargs="?", default="scenes", help="scenes, or a name such as ViT-B/32, with random weights")
    model = parser.parse_args().model
    measure(load(model, pretrained=model == "scenes"))
