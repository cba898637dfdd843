"""What the datasets library reads: sets of the hub, folders of its own forms, WebDataset's archives."""

import io
import pickle
import tarfile

import datasets as hugging_face
import pytest
from PIL import Image
from test_data import picture, reds, write_csv
from test_lists import shown

from nibkit import data
from nibkit.data import hub


@pytest.fixture
def parquet(tmp_path, monkeypatch):
    """A folder such as the hub would deliver: pictures, captions in five columns and in lists, a class of WordNet."""
    monkeypatch.setattr(hugging_face.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = {"image": hugging_face.Image(), "label": hugging_face.ClassLabel(names=["n01443537", "bus_stop"])}
    columns = {"image": [Image.new("RGB", (4, 4), (k, 0, 0)) for k in range(6)], "label": [0, 1, 0, 0, 1, 0]}
    columns |= {f"caption_{c}": [f"row {k}, caption {c}" for k in range(6)] for c in (0, 1)}
    columns["captions"] = [[f"a{k}", f"b{k}"] for k in range(6)]
    rows = hugging_face.Dataset.from_dict(columns)
    rows = rows.cast_column("image", features["image"]).cast_column("label", features["label"])
    (tmp_path / "set").mkdir()
    rows.to_parquet(tmp_path / "set/test-00000.parquet")
    rows.save_to_disk(tmp_path / "saved")
    return tmp_path


@pytest.mark.parametrize("folder, stream", [("set", ""), ("set", ",4"), ("saved", "")])
def test_a_set_of_the_hub_by_name_split_and_columns(parquet, folder, stream):
    pairs = data.load(f"hf:{parquet / folder},test,image,caption_0{stream}")
    assert (pairs.name, len(pairs)) == (folder, 4 if stream else 6)
    assert [p.text for p in pairs[:2]] == ["row 0, caption 0", "row 1, caption 0"] and pairs[0].captions == ()
    assert (pairs[3].id, reds(pairs)[:4]) == (f"{folder}/0003", [0, 1, 2, 3])
    assert reds([pickle.loads(pickle.dumps(pairs[2]))]) == [2]


@pytest.mark.parametrize("stream", ["", ",2"])
def test_an_imagefolder_as_the_library_reads_it(tmp_path, monkeypatch, stream):
    monkeypatch.setattr(hugging_face.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for k in range(3):
        picture(tmp_path / f"set/train/{k}.png", 50 * k)
    write_csv(
        tmp_path / "set/train/metadata.csv", ["file_name", "text"], *([f"{k}.png", f"caption {k}"] for k in range(3))
    )
    pairs = data.load(f"hf:{tmp_path / 'set'},train,image,text{stream}")
    assert [p.text for p in pairs] == [f"caption {k}" for k in range(len(pairs))] and len(pairs) == (2 if stream else 3)
    assert reds(pairs) == [0, 50, 100][: len(pairs)]


def test_captions_in_columns_in_lists_and_from_classes(parquet):
    name = str(parquet / "set")
    assert data.load(f"hf:{name},test,image,caption_1+caption_0")[1].captions == (
        "row 1, caption 1",
        "row 1, caption 0",
    )
    assert data.load(f"hf:{name},test,image,captions")[1].captions == ("a1", "b1")
    pairs = hub.fetch(name, "test", "image", "label", per_class=2)
    assert [(p.id, p.text) for p in pairs] == [
        ("set/0000", "a photo of a goldfish, Carassius auratus"),
        ("set/0001", "a photo of a bus stop"),
        ("set/0002", "a photo of a goldfish, Carassius auratus"),
        ("set/0004", "a photo of a bus stop"),
    ]
    assert reds(pairs) == [0, 1, 2, 4]


def test_a_preset_gives_the_dataset_its_own_name(parquet, monkeypatch):
    monkeypatch.setitem(
        hub.PRESETS, "flickr8k", hub.PRESETS["flickr8k"]._replace(name=str(parquet / "set"), text="captions")
    )
    pairs = data.load("hf:flickr8k")
    assert (pairs.name, pairs[0].id) == ("flickr8k", "flickr8k/0000")
    assert set(hub.PRESETS) == {"conceptual_captions", "tiny-imagenet", "flickr8k", "rsicd"}


def test_a_broken_picture_of_the_hub_raises_only_when_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    cells = [{"bytes": b"<html>", "path": None}, None]
    rows = hugging_face.Dataset.from_dict({"image": cells, "text": ["a", "b"]}).cast_column(
        "image", hugging_face.Image()
    )
    rows.save_to_disk(tmp_path / "set")
    pairs = data.load(f"hf:{tmp_path / 'set'},train,image,text")
    for k, message in [
        (0, "set/0000 cannot be read as a picture: it is in none of the formats"),
        (1, "set/0001 has no picture"),
    ]:
        with pytest.raises(data.DataError, match=message):
            _ = pairs[k].image


def test_a_column_of_the_hub_that_holds_no_captions(tmp_path):
    columns = {"image": [Image.new("RGB", (4, 4))], "number": [5], "nested": [{"raw": "a cat"}], "none": [None]}
    hugging_face.Dataset.from_dict(columns).cast_column("image", hugging_face.Image()).save_to_disk(tmp_path / "set")
    for column, value in (("number", "5"), ("nested", "{'raw': 'a cat'}")):
        with pytest.raises(data.DataError, match=f"set, {column}: a caption is {value}, not a string"):
            data.load(f"hf:{tmp_path / 'set'},train,image,{column}")
    assert data.load(f"hf:{tmp_path / 'set'},train,image,none")[0].text == ""


def test_without_network_the_hubs_cache_is_used_and_nothing_is_waited_for(parquet, monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    data.load(f"hf:{parquet / 'set'},test,image,captions")
    (parquet / "cache/set").rename(parquet / "cache/someone___set")  # as the hub's someone/set lies there
    pairs = data.load("hf:someone/set,test,image,captions")
    assert len(pairs) == 6 and reds(pairs[:2]) == [0, 1]
    with pytest.raises(data.DataError, match="could not be loaded .*; without network, load it once"):
        data.load("hf:someone/other,test,image,captions,3")
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_what_the_hub_cannot_give_is_refused_with_a_way_out(parquet, monkeypatch):
    name = parquet / "set"
    with pytest.raises(data.DataError, match="no column 'photo', only image, label, caption_0"):
        data.load(f"hf:{name},test,photo,label")
    with pytest.raises(data.DataError, match="'caption_0' holds .*not pictures"):
        data.load(f"hf:{name},test,caption_0,label")
    with pytest.raises(data.DataError, match="split 'val', could not be loaded"):
        data.load(f"hf:{name},val,image,label")
    for wrong in ("flickr9k", "a,b,c", "a,b,c,d,many"):
        with pytest.raises(data.DataError, match=f"hf:{wrong} is neither one of conceptual_captions"):
            data.load(f"hf:{wrong}")

    def offline(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(hugging_face, "load_dataset", offline)
    with pytest.raises(
        data.DataError, match=r"no route to host\); without network, load it once .* copy FOLDER here and load"
    ):
        data.load("hf:flickr8k")


def archive(path, *parts):
    """parts: (name, bytes)."""
    with tarfile.open(path, "w") as tar:
        for name, content in parts:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def png(red):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def test_archives_of_webdataset(cache):
    (cache / "set").mkdir()
    archive(
        cache / "set/00.tar", ("a.png", png(10)), ("a.txt", b"a cat"), ("b.png", png(20)), ("b.txt", "café".encode())
    )
    archive(cache / "set/01.tar", ("c.png", b"<html>"), ("c.txt", b"a cow"))
    pairs = data.load(cache / "set")
    assert (pairs.name, [p.id for p in pairs]) == ("set", ["set/0000", "set/0001", "set/0002"])
    assert shown(pairs[:2]) == [("a cat", (), 10), ("café", (), 20)] and pairs[2].text == "a cow"
    with pytest.raises(data.DataError, match="set/0002 cannot be read as a picture"):
        _ = pairs[2].image
    assert shown(data.load(cache / "set/00.tar")) == shown(pairs[:2])


def test_captions_in_the_json_of_an_archive(cache):
    parts = [
        (f"{k}.{kind}", content)
        for k in (0, 1)
        for kind, content in (("png", png(k)), ("json", b'{"caption": "c%d"}' % k))
    ]
    archive(cache / "a.tar", *parts)
    assert shown(data.load(cache / "a.tar")) == [("c0", (), 0), ("c1", (), 1)]


@pytest.mark.parametrize(
    "parts, message",
    [
        ([("a.png", png(1)), ("a.cls", b"3")], r"a.tar holds no captions \(.txt, or .json with one\), only png, cls"),
        ([("a.txt", b"a cat")], "a.tar holds no pictures, only txt"),
        (
            [("a.png", png(1)), ("a.txt", b"a"), ("b.png", png(1))],
            "cannot be read as a WebDataset archive .*share the same",
        ),
        (None, "cannot be read as a WebDataset archive"),
    ],
)
def test_an_archive_that_holds_no_pairs_is_refused(cache, parts, message):
    if parts is None:
        (cache / "a.tar").write_bytes(b"no archive")
    else:
        archive(cache / "a.tar", *parts)
    with pytest.raises(data.DataError, match=message):
        data.load(cache / "a.tar")


def test_a_class_of_the_hub_that_is_not_known_is_not_the_last_one(cache):
    features = hugging_face.Features(
        {"image": hugging_face.Image(), "label": hugging_face.ClassLabel(names=["cat", "dog"])}
    )
    rows = {"image": [Image.new("RGB", (4, 4))] * 3, "label": [1, -1, None]}
    hugging_face.Dataset.from_dict(rows, features=features).save_to_disk(cache / "set")
    assert [p.text for p in data.load(f"hf:{cache / 'set'},train,image,label")] == ["a photo of a dog", "", ""]
