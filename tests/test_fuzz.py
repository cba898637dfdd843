"""Whatever people bring ends in a result, or in an error that nibkit itself raises with a sentence: lists, pictures,
captions and checkpoints of all kinds, made by Hypothesis.

The same examples every time, a minute of them; NIBKIT_FUZZ=5000 tries as many new ones of each kind.
"""

import csv
import io
import json
import os
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from clip.model import CLIP
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

import nibkit
from nibkit import attribution, benchmark, data
from nibkit.checks import ERRORS
from nibkit.data import check, pictures

PACKAGE = Path(nibkit.__file__).parent
MANY = int(os.environ.get("NIBKIT_FUZZ", 0))


def examples(n):
    checks = [
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ]
    return settings(
        max_examples=MANY or n, derandomize=not MANY, database=None, deadline=None, suppress_health_check=checks
    )


def answered(work):
    """(The result, None), or (None, the error that nibkit raised)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work(), None
    except ERRORS as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        assert Path(last.filename).is_relative_to(PACKAGE), (
            f"{type(error).__name__} is raised by {last.filename}: {error}"
        )
        assert len(str(error).split()) > 3, f"no sentence: {error}"
        return None, error


# --- lists -------------------------------------------------------------------------------------------------------

letters = st.text(st.characters(codec=None, exclude_categories=()), max_size=12)  # halves of signs and NUL among them
paths = st.sampled_from(
    ["1.png", "sub/1.png", "sub\\1.png", "../1.png", "/etc/passwd", "C:\\1.png", ".", "", " ", "x" * 300, "a\0b"]
)
numbers = st.sampled_from(["0 0 2 2", "9" * 5000, "nan", "1e400 0 1 1", "-1 0 1 1", "0,0,9,9;1 1 2 2"])
cells = st.one_of(letters, paths, numbers, st.sampled_from(["a cat", '"', "a, b", "a;b", "\t", "x\ny"]))
heads = st.sampled_from(
    [
        "image",
        "file_name",
        "filepath",
        "filename",
        "Image",
        "text",
        "caption",
        "title",
        "mask",
        "objects",
        "boxes",
        "x",
        "",
    ]
)
keys = st.one_of(
    heads,
    st.sampled_from(["images", "annotations", "conversations", "sentences", "split", "id", "image_id", "dataset"]),
)
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), cells)
entries = st.dictionaries(
    keys, st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))
)
likely = st.fixed_dictionaries(
    {"image": paths, "text": cells}, optional={"mask": paths, "objects": cells, "boxes": numbers | cells}
)
documents = st.one_of(
    st.lists(entries | likely, max_size=4),
    st.fixed_dictionaries(
        {"images": st.lists(entries, max_size=3)}, optional={"annotations": st.lists(entries, max_size=3)}
    ),
    entries,
    leaves,
)


def table(rows, separator):
    file = io.StringIO()
    csv.writer(file, delimiter=separator, lineterminator="\n").writerows(rows)
    return file.getvalue()


rows = st.lists(heads, min_size=1, max_size=5).flatmap(
    lambda head: st.lists(st.lists(cells, min_size=len(head) - 1, max_size=len(head) + 1), max_size=4).map(
        lambda body: [head, *body]
    )
)
tables = st.builds(table, rows, st.sampled_from(",;\t|"))
lines = st.lists(st.one_of(likely, entries, leaves).map(json.dumps), max_size=4).map("\n".join)
contents = st.one_of(tables, lines, documents.map(json.dumps)).flatmap(
    lambda text: st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "utf-32"]).map(
        lambda encoding: text.encode(encoding, "replace" if encoding == "cp1252" else "surrogatepass")
    )
)


@examples(250)
@given(
    content=contents | st.binary(max_size=60),
    suffix=st.sampled_from([".csv", ".tsv", ".txt", ".json", ".jsonl", ".doc"]),
)
def test_lists(tmp_path, content, suffix):
    (tmp_path / "sub").mkdir(exist_ok=True)
    for place in ("1.png", "sub/1.png"):
        Image.new("L", (4, 4), 1).save(tmp_path / place)
    file = tmp_path / f"list{suffix}"
    file.write_bytes(content)
    pairs, error = answered(lambda: data.load(file))
    if error:
        assert isinstance(error, data.DataError)
        return
    found = check.check(pairs)  # never an error: what is wrong with a pair stands in its row
    assert len(found) == len(pairs) and isinstance(check.report("list", found).encode(), bytes)
    for pair, problem in zip(pairs, found.problem):
        assert isinstance(pair.text, str) and pair.id.encode()
        image, error = answered(lambda pair=pair: pair.image)
        assert (image is None) <= bool(problem) and (error is None or isinstance(error, data.DataError))


# --- pictures ----------------------------------------------------------------------------------------------------


def encoded(kind):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


STARTS = [
    b"%!PS-Adobe-3.0 EPSF-3.0\n",
    b"%PDF-1.4",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"II*\0",
    b"MM\0*",
    b"P6 ",
    b"BM",
    b"RIFF",
    b"8BPS",
]
WHOLE = [encoded(kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM")]
edits = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4)


def edited(content, changes, end):
    content = bytearray(content)
    for place, value in changes:
        content[place % len(content)] = value
    return bytes(content[: len(content) - end])


@examples(300)
@given(
    content=st.builds(lambda a, b: a + b, st.sampled_from(STARTS), st.binary(max_size=80))
    | st.builds(edited, st.sampled_from(WHOLE), edits, st.integers(0, 30))
)
def test_pictures(content):
    image, error = answered(lambda: pictures.read(content, "a picture"))
    assert isinstance(error, data.DataError) if image is None else image.mode == "RGB" and min(image.size) > 0


# --- captions ----------------------------------------------------------------------------------------------------

captions = st.one_of(
    st.text(st.characters(codec=None, exclude_categories=()), max_size=60),
    st.lists(
        st.sampled_from(
            [
                "cat",
                "<|endoftext|>",
                "$\\foo$",
                "&amp;",
                "\ud83d",
                "😀",
                "猫",
                "\0",
                "\r\n",
                "</w>",
                "x" * 400,
                '"',
                "  ",
            ]
        ),
        max_size=6,
    ).map(" ".join),
)


@examples(60)
@given(caption=captions)
def test_captions(scenes, caption):
    picture = data.load("cat-and-dog")[0].image
    a, error = answered(lambda: nibkit.explain(scenes, picture, caption, "centre"))
    if error is None:
        (ids,) = scenes.tokenize([caption])
        said = attribution.words(scenes, ids, a.text[0])
        assert len(a.text[0]) == len(ids) and all(isinstance(word, str) and np.isfinite(score) for word, score in said)


@examples(8)
@given(texts=st.lists(captions, min_size=1, max_size=4))
def test_captions_of_a_run(scenes, tmp_path_factory, texts):
    """Every pair is a row, and a second run into the same file finds them all."""
    picture = data.load("cat-and-dog")[0].read_image
    pairs = data.PairDataset("fuzz", [data.Pair(str(k), text, picture) for k, text in enumerate(texts)])
    out = tmp_path_factory.mktemp("fuzz") / "rows.csv"
    first, again = (benchmark.run(scenes, pairs, ["random"], out=out, progress=False) for _ in range(2))
    good = first.error == ""
    assert list(first.pair) == [pair.id for pair in pairs] and list(again.error) == list(first.error)
    assert first.seconds[good].equals(again.seconds[good])


# --- checkpoints -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state():
    """A small CLIP in OpenAI's format."""
    torch.manual_seed(0)
    model = CLIP(64, 32, 1, 64, 16, 8, 49408, 64, 1, 1)
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def altered(state, draw):
    """Names dropped, renamed or added, shapes and kinds of tensors changed."""
    state, names = dict(state), list(state)
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(names))
        how = draw(st.sampled_from(["drop", "shape", "kind", "nan", "rename", "add"]))
        tensor = state.pop(name, torch.zeros(1))
        if how == "shape":
            state[name] = torch.zeros(draw(st.lists(st.integers(0, 5), max_size=4)))
        elif how == "kind":
            state[name] = tensor.to(draw(st.sampled_from([torch.int64, torch.bool, torch.float16, torch.float64])))
        elif how == "nan":
            state[name] = torch.full_like(tensor.float(), float("nan"))
        elif how == "rename":
            state[draw(st.sampled_from(["head.weight", "model." + name, "", "visual.proj"]))] = tensor
        elif how == "add":
            state |= {name: tensor, "head.weight": torch.zeros(3)}
    prefix = draw(st.sampled_from(["", "", "module.", "model.", "_orig_mod."]))
    return {prefix + name: tensor.clone() for name, tensor in state.items()}


@examples(40)
@given(drawn=st.data())
def test_checkpoints(state, tmp_path, drawn):
    found, kind = altered(state, drawn.draw), drawn.draw(st.sampled_from(["pt", "safetensors", "bytes"]))
    file = tmp_path / f"model.{kind if kind != 'bytes' else 'pt'}"
    if kind == "pt":
        torch.save(drawn.draw(st.sampled_from([found, {"state_dict": found}, {"model": found}, [found], 5])), file)
    elif kind == "safetensors":
        save_file(found, file)
    else:
        file.write_bytes(drawn.draw(st.binary(max_size=40)))
    content = bytearray(file.read_bytes())
    for place, value in drawn.draw(edits):
        content[place % len(content) if content else 0 : 1 + place % len(content) if content else 1] = bytes([value])
    cut = drawn.draw(st.sampled_from([0, 0, 1, 1000]))
    file.write_bytes(content[: max(0, len(content) - cut)])
    clip, error = answered(lambda: nibkit.load(f"openai:{file}", device="cpu"))
    if error is None:
        picture = Image.new("RGB", (32, 32), "red")
        assert clip.similarity([picture], ["a cat"]).isfinite().all()
