"""Words as people wrote them: every letter of them shown, every word read, and no vocabulary that is not there."""

import json

import numpy as np
import pytest
import tokenizers
import transformers
from clip.simple_tokenizer import SimpleTokenizer, bytes_to_unicode
from PIL import Image
from test_towers import siglip, transformers_clip
from tokenizers import Tokenizer

import nibkit
from nibkit.attribution import words
from nibkit.models.tokenizers import BPE, Pretrained

HARD = "a café 猫 😀"
MARKS = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
CLIPS = {"tokenizer_class": "CLIPTokenizer", **MARKS, "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}


def clip_files(folder):
    """CLIP's own vocabulary in the files of transformers."""
    made = SimpleTokenizer()
    (folder / "tokenizer_config.json").write_text(json.dumps(CLIPS))
    (folder / "vocab.json").write_text(json.dumps(made.encoder))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in made.bpe_ranks) + "\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("clip")
    transformers_clip().model.save_pretrained(found)
    return clip_files(found)


def byte_level():
    """GPT-2's and RoBERTa's kind: a mark in front of words, no BOS."""
    letters = {letter: k for k, letter in enumerate(bytes_to_unicode().values())}
    made = Tokenizer(tokenizers.models.BPE({**letters, "Ġa": 256, "</s>": 257}, [("Ġ", "a")]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 257)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="</s>")


def byte_fallback():
    """Gemma's kind, which SigLIP 2 reads: letters that the vocabulary lacks become tokens of one byte."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁a", "c", "a", "f", *(f"<0x{k:02X}>" for k in range(256))]
    made = tokenizers.models.Unigram([(p, -float(k)) for k, p in enumerate(pieces)], unk_id=2, byte_fallback=True)
    made = Tokenizer(made)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    marks = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **marks)


KINDS = {
    "CLIP's": lambda folder: BPE(),
    "transformers' of CLIP": lambda folder: Pretrained(transformers.AutoTokenizer.from_pretrained(folder)),
    "byte-level": lambda folder: Pretrained(byte_level()),
    "byte fallback": lambda folder: Pretrained(byte_fallback()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_letters_of_any_script_come_back(kind, folder):
    tokenizer = KINDS[kind](folder)
    ids = tokenizer(HARD)
    pieces = tokenizer.pieces(ids)[tokenizer.before : -1]
    assert len(pieces) == len(ids) - tokenizer.before - 1 > len(HARD.split())
    assert "".join(pieces).split() == HARD.split()


def test_words_and_json_show_them(folder, scenes, tmp_path):
    for clip in (scenes, nibkit.load(folder, device="cpu")):
        (ids,) = clip.tokenize(HARD)
        scores = np.arange(len(ids), dtype=np.float32)
        found = words(clip, ids, scores)
        assert [word for word, _ in found] == HARD.split()
        assert sum(score for _, score in found) == scores[1:-1].sum()
    from nibkit.__main__ import main

    Image.new("RGB", (50, 40), "red").save(tmp_path / "x.png")
    assert main(["explain", str(tmp_path / "x.png"), HARD, "--json", str(tmp_path / "x.json")]) == 0
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    tokens = json.loads(text)
    assert HARD in json.dumps(tokens, ensure_ascii=False) and "Ã" not in text


def test_clips_two_tokenizers_agree(folder):
    """The package's own, and the library's from the same vocabulary; ids of ordinary texts are the package's to the
    last.
    """
    own, library = BPE(), KINDS["transformers' of CLIP"](folder)
    reference = SimpleTokenizer()
    for text in (HARD, "A photo of two cats, and 3 dogs!", "it's   a dog's ball", "naïve façade, naïvely", ""):
        assert own(text) == library(text) == [49406, *reference.encode(text), 49407]
        assert own.pieces(own(text)) == library.pieces(library(text))


@pytest.mark.parametrize("kind", ["CLIP's", "transformers' of CLIP", "byte-level"])
@pytest.mark.parametrize("text", ["a {} dog", "{}", "a cat{}", "{} a", "a &lt;|endoftext|&gt; dog"])
def test_a_mark_in_a_text_is_text(kind, text, folder):
    tokenizer = KINDS[kind](folder)
    for mark in ("</s>",) if kind == "byte-level" else ("<|endoftext|>", "<|startoftext|>", "<|EndOfText|>"):
        ids = tokenizer(text.format(mark))
        assert not {49406, 49407, 257} & set(ids[tokenizer.before : -1])
        shown = "".join(tokenizer.pieces(ids)[tokenizer.before : -1]).replace(" ", "")
        assert "endoftext" in shown.lower() or "startoftext" in shown.lower() or "</s>" in shown


def test_a_mark_that_cannot_be_read_as_text_is_refused():
    """A Unigram vocabulary has its marks among its pieces."""
    with pytest.raises(
        ValueError, match="'a </s> dog' is read with the mark </s> inside, as if it ended there; change it"
    ):
        KINDS["byte fallback"](None)("a </s> dog")


def test_an_added_token_is_a_word_of_its_own(folder):
    for made in (transformers.AutoTokenizer.from_pretrained(folder), byte_level()):
        made.add_tokens(["<sks>"])
        tokenizer = Pretrained(made)
        for text in ("a <sks> a", "a <sks>a", "<sks> a"):
            pieces = tokenizer.pieces(tokenizer(text))[tokenizer.before : -1]
            assert "".join(pieces).split() == text.replace("<sks>", " <sks> ").split()


VOCABULARIES = {
    "the configuration alone": {"tokenizer_config.json": json.dumps(CLIPS)},
    "an empty tokenizer.json": {"tokenizer.json": "{}"},
    "no tokenizer.json": {"tokenizer.json": "none"},
    "no merges": {"tokenizer_config.json": json.dumps(CLIPS), "vocab.json": json.dumps(SimpleTokenizer().encoder)},
    "an empty vocabulary": {
        "vocab.json": "{}",
        "merges.txt": "#version: 0.2\n",
        "tokenizer_config.json": json.dumps(CLIPS),
    },
    "marks alone": {
        "tokenizer_config.json": json.dumps(CLIPS),
        "vocab.json": json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1}),
        "merges.txt": "#version: 0.2\n",
    },
}


@pytest.mark.parametrize("what", VOCABULARIES)
@pytest.mark.parametrize("make", [transformers_clip, siglip])
def test_a_tokenizer_without_its_vocabulary_reads_nothing(what, make, tmp_path):
    """It would make every word the same token, and two captions score alike."""
    make().model.save_pretrained(tmp_path)
    for name, text in VOCABULARIES[what].items():
        (tmp_path / name).write_text(text)
    clip = nibkit.load(tmp_path, device="cpu")
    with pytest.raises(ValueError, match=f"the tokenizer of {tmp_path} could not be loaded: "):
        clip.tokenize("a cat")
