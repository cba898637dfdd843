"""Ask one picture with sliders: `nibkit.explore(clip, image, text)`.

A panel of core ipywidgets around `nibkit.explain`. Moving a slider costs the blocks above the layer and one drawing:
the states of all layers come from one forward pass (`sharing.Memo`), and results that were seen before are kept. What
would take longer than PATIENCE is first shown as a sketch in fewer steps, and says so. What goes wrong is said in a
sentence in the panel. `python -m nibkit.explorer` measures how long each move takes.
"""

import functools
import gc
import html
import itertools
from dataclasses import replace

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from .. import data
from ..attribution import words
from ..checks import ERRORS
from ..data.pictures import read
from ..methods import METHODS
from ..methods.nib import FIXED, RULES
from ..models.sharing import Memo, shared
from ..scenes import world
from .drawing import Look, Result, facts, page, pictures, spoken, table
from .style import HELP, STYLE

FEWER = {"rise": {"masks": 500, "text_masks": 100}, "agi": {"k": 2}}  # 6,000 pictures are too many to wait for
GIVEN, DRAWN = "the given picture", "a scene to edit"
EXAMPLES = 6  # bundled pictures in the list
SLOTS = (*world.CAT_AND_DOG.objects, world.Placed("tree", 112, 48, 70))  # the editor's objects; the third starts empty
NOTHING = "nothing"
CELL = {"width": "80px", "min_width": "0"}  # of the editor's table
PATIENCE = 1.0  # seconds: what would take longer is sketched first, in fewer steps
KNOWN = 2000  # states and the like that are kept of one picture and its texts


def _slot(k: int, placed: world.Placed, present: bool) -> widgets.HBox:
    """A row of the editor; its controls have names for screen readers, and for the eye the table's heads."""
    look = {"layout": CELL, "style": {"description_width": "0"}}
    name = widgets.Dropdown(
        options=[NOTHING, *world.OBJECTS], value=placed.name if present else NOTHING, description=f"object {k}", **look
    )
    look |= {"step": 2, "readout": False, "continuous_update": False}
    ranges = {"across": (placed.x, 0, world.SIZE), "down": (placed.y, 0, world.SIZE), "size": (placed.size, 40, 180)}
    sliders = [
        widgets.FloatSlider(value=value, min=low, max=high, description=f"object {k} {of}", **look)
        for of, (value, low, high) in ranges.items()
    ]
    return widgets.HBox([name, *sliders]).add_class("nibkit-slot")


def sentence(error: Exception) -> str:
    """The first line of what went wrong, behind the error's name unless nibkit wrote it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if isinstance(error, ERRORS) else f"{type(error).__name__}: {lines[0]}"


class Explorer(widgets.HBox):
    """The panel: controls on the left, map, words and facts on the right. `figure()` draws the same for a report."""

    def __init__(self, clip, image: Image.Image, text: str):
        self.clip = clip
        self._result = functools.lru_cache(128)(self._compute)
        self._picture = functools.lru_cache(8)(lambda picture: (self._pixels(picture), Memo()))
        self._ids = functools.lru_cache(64)(lambda text: clip.tokenize([text]))
        examples = data.load("scenes-captions")[:EXAMPLES]
        shown = {GIVEN: image} | {f"{p.id}: {p.text}": p.image for p in examples}
        self.pixels = {label: clip.preprocess(one) for label, one in shown.items()}
        self._make_controls(text)
        self.message, self.map, self.words, self.facts = (widgets.HTML() for _ in range(4))
        for part, name in ((self.message, "message"), (self.message, "live"), (self.words, "live"), (self, "panel")):
            part.add_class(f"nibkit-{name}")
        self.answer = widgets.VBox([self.map, self.words, self.facts])
        left = widgets.VBox([*self.controls, self.editor, widgets.HTML(HELP)], layout={"flex": "0 1 340px"})
        style = widgets.HTML(STYLE, layout={"display": "none"})
        right = widgets.VBox([style, self.message, self.answer], layout={"flex": "1 1 480px", "min_width": "0"})
        super().__init__([left, right], layout={"flex_flow": "row wrap", "grid_gap": "8px 28px"})
        self._quiet = False
        self._answered: set[tuple] = set()
        self._pace = 0.0  # seconds of a step through one block, of NIB's last answer; 0: not known
        asking = [self.picture, self.text, self.method, self.rule, self.layer, self.text_layer, self.steps]
        drawing = [self.view, self.strength, self.ground, *(c for row in self.slots for c in row.children)]
        for control in asking + drawing:
            control.observe(self.refresh, "value")
        self.upload.observe(self._take_upload, "value")
        self.refresh()
        gc.freeze()  # or, every few moves, Python walks all that torch has loaded: 0.4 s

    def _make_controls(self, text: str) -> None:
        full, style = {"width": "auto"}, {"description_width": "64px"}

        def make(kind: type, name: str, **how) -> widgets.Widget:
            return kind(description=name, layout=full, style=style, **how)

        late = {"continuous_update": False}
        there, rest = [GIVEN, DRAWN, *list(self.pixels)[1:]], {"flex": "1 1 auto", "width": "0"}
        self.picture = widgets.Dropdown(options=there, description="Picture", style=style, layout=rest)
        self.upload = widgets.FileUpload(accept="image/*", description="Upload", layout={"width": "120px"})
        self.text = make(widgets.Text, "Text", value=text, placeholder="a caption, then Enter", **late)
        self.method = make(widgets.Dropdown, "Method", options=list(METHODS))
        self.rule = make(widgets.Dropdown, "Rule", options=RULES)
        self.layer, self.text_layer = (
            make(widgets.IntSlider, name, value=tower.default_layer, max=len(tower.blocks) - 1, **late)
            for name, tower in (("Layer", self.clip.image), ("Text layer", self.clip.text))
        )
        self.steps = make(widgets.IntSlider, "Steps", value=10, min=1, max=50, **late)
        self.view = widgets.ToggleButtons(options=["signed", "heat"], style={"button_width": "84px"})
        self.strength = make(widgets.FloatSlider, "Overlay", value=0.6, max=1, step=0.05, readout_format=".2f", **late)
        picture = widgets.HBox([self.picture, self.upload])
        beside = {"width": "64px", "margin": "2px 8px 2px 2px", "justify_content": "flex-end"}
        name = widgets.Label("Scores", layout=beside)
        view = widgets.HBox([name, self.view])  # its own description would stand above the buttons
        layers = [self.layer] if self.layer.max == self.text_layer.max else [self.layer, self.text_layer]
        self.controls = [picture, self.text, self.method, self.rule, *layers, self.steps, view, self.strength]

        grounds = {said: name for name, said in world.GROUNDS.items()}
        self.ground = make(widgets.Dropdown, "Ground", options=grounds, value=world.CAT_AND_DOG.ground)
        self.slots = [_slot(k, placed, placed in world.CAT_AND_DOG.objects) for k, placed in enumerate(SLOTS, 1)]
        heads = [widgets.Label(name, layout=CELL) for name in ("object", "across", "down", "size")]
        self.editor = widgets.VBox([self.ground, widgets.HBox(heads), *self.slots], layout={"margin": "10px 0 0"})

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
        """The same question in as few steps of NIB's sum as PATIENCE allows; None where all fit, or it was answered."""
        *others, options = question
        options = dict(options)
        if question in self._answered or not self._pace or options.get("rule") not in FIXED:
            return None
        fit = PATIENCE / (self._pace * self._blocks())
        return (*others, tuple((options | {"steps": max(1, int(fit))}).items())) if fit < options["steps"] > 1 else None

    def _blocks(self) -> float:
        """Blocks of the image tower that a step takes, most of the work; the last runs for its readout alone."""
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
        of = "patch" if a.image.shape[1:] == self.clip.image.grid else "pixel"
        told = words(self.clip, ids[0], a.text[0])
        return Result(method, self.clip.picture(pixels[0]), of, a, told, cosine, dict(zip(names, cosines)))

    def _pixels(self, picture: str | world.Scene) -> Tensor:
        drawn = isinstance(picture, world.Scene)
        return self.clip.preprocess(world.render(picture)[0]) if drawn else self.pixels[picture]

    def refresh(self, change=None) -> None:
        """Answer what the controls say now."""
        if self._quiet:
            return
        takes = METHODS[self.method.value].takes
        for name, control in self._options().items():
            control.disabled = name not in takes
        self.text_layer.disabled = self.layer.disabled
        self.steps.disabled |= not self.rule.disabled and self.rule.value not in FIXED
        for name, *sliders in (row.children for row in self.slots):
            for slider in sliders:
                slider.disabled = name.value == NOTHING
        self.editor.layout.display = "" if self.picture.value == DRAWN else "none"
        self.answer.add_class("nibkit-busy")  # pales after 0.4 s
        said = ""
        try:
            self._answer(self._question())
        except Exception as error:
            said = sentence(error)
        self.answer.remove_class("nibkit-busy")
        self.answer.layout.visibility = "hidden" if said else "visible"  # an old map would not be the new question's
        self._say("error", said)

    def _answer(self, question: tuple) -> None:
        *_, method, options = question
        about = ", ".join(f"{name} {value}" for name, value in (dict(options) | FEWER.get(method, {})).items())
        self._say("note", f"Computing {method}: {about}" if about else f"Computing {method}")
        if sketch := self._sketch(question):
            self._show(self._result(*sketch))
            self.answer.remove_class("nibkit-busy")
            few, steps = (dict(options)["steps"] for *_, options in (sketch, question))
            self._say("note", f"A sketch in {few} of {steps} steps; the whole answer follows.")
        result = self._result(*question)
        self._show(result)
        if "rule" in dict(options) and question not in self._answered:
            info = result.attribution.info.iloc[0]
            self._pace = info.seconds / (info.passes * self._blocks())
        self._answered.add(question)

    def _say(self, kind: str, said: str) -> None:
        self.message.value = f'<div class="nibkit-{kind}">{html.escape(said)}</div>' if said else ""

    def _show(self, result: Result) -> None:
        self.map.value = pictures(result, self._look())
        self.words.value = spoken(result)
        self.facts.value = table(facts(result))

    def _take_upload(self, change=None) -> None:
        files = self.upload.value
        files = files.items() if isinstance(files, dict) else [(f["name"], f) for f in files]  # ipywidgets 7, 8
        for name, file in files:
            try:
                pixels = self.clip.preprocess(read(bytes(file["content"]), name))
            except Exception as error:
                return self._say("error", sentence(error))  # the last answer still is to what the controls say
            names = itertools.chain([name], (f"{name} ({k})" for k in itertools.count(2)))
            label = next(free for free in names if free not in self.picture.options)
            self.pixels[label] = pixels
            self._quiet = True  # new options choose the first one for a moment
            self.picture.options = [*self.picture.options, label]
            self._quiet = False
            self.picture.value = label

    def _look(self) -> Look:
        return Look(self.view.value == "signed", self.strength.value)

    def figure(self) -> Figure:
        """What the panel shows, as a figure for a report: picture, map, words, F(Z), F(0), gap and cost."""
        return page(self.result(), self._look())

    def forget(self, states: bool = False) -> None:
        """Drop the answers that were kept, and the states of the pictures too."""
        self._result.cache_clear()
        self._answered.clear()
        if states:
            self._picture.cache_clear()
