"""Tokenizers of all libraries under one face.

tokenizer(text) -> ids from BOS to EOS, not padded; tokenizer.pieces(ids) -> as many strings, a space behind the end of
a word.
Joined, the pieces are what was read: a letter whose bytes are spread over several tokens stands in the last piece.
A mark such as "<|endoftext|>" that stands in a text is read as any other letters: it ends nothing.
`before`: tokens in front of the first word (BOS, or none); `pad`: the id that fills texts up, None where nobody sees
it.
"""

import codecs
import functools
import re
from collections.abc import Callable, Iterable

from clip.simple_tokenizer import SimpleTokenizer, bytes_to_unicode

BYTES = {letter: byte for byte, letter in bytes_to_unicode().items()}  # how byte-level vocabularies write a byte


@functools.cache
def _bpe() -> SimpleTokenizer:
    made = SimpleTokenizer()
    made.cache.clear()  # where it keeps that a BOS or EOS written out in a text is one
    return made


def _raw(token: str) -> bytes:
    """The bytes of a byte-level vocabulary's token."""
    return bytes(BYTES[letter] for letter in token) if BYTES.keys() >= set(token) else token.encode()


def _letters(tokens: Iterable[tuple[bytes, bool]]) -> list[str]:
    """(bytes, whether nothing joins on behind them) of each token -> the letters that are complete with it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(raw, final=ends) for raw, ends in tokens]


class BPE:
    """CLIP's own: what OpenAI's and most of open_clip's models read."""

    before, pad = 1, None

    def __call__(self, text: str) -> list[int]:
        return [_bpe().encoder["<|startoftext|>"], *_bpe().encode(text), _bpe().encoder["<|endoftext|>"]]

    def pieces(self, ids: list[int]) -> list[str]:
        """A string for each id, a space behind the end of a word."""
        tokens = [_bpe().decoder[i] for i in ids]
        marks = _bpe().decoder[49406], _bpe().decoder[49407]
        ends = [token.endswith("</w>") for token in tokens]
        last = [end or token in marks for token, end in zip(tokens, ends)]
        letters = _letters((_raw(token.removesuffix("</w>")), end) for token, end in zip(tokens, last))
        return [letter + " " * end for letter, end in zip(letters, ends)]


class Pretrained:
    """A tokenizer of transformers. clean: what is done to a text first; sep: an id that takes the separator's place.

    Errors: ValueError for one that came without its vocabulary, and for a text that it reads with its own marks inside.
    """

    def __init__(self, tokenizer, clean: Callable[[str], str] = str, sep: int | None = None):
        self._tokenizer, self._clean = tokenizer, clean
        vocabulary, special = tokenizer.get_vocab(), {*tokenizer.all_special_tokens}
        self._special = special - {tokenizer.unk_token}  # which is a word like others
        self._added = {*tokenizer.get_added_vocab()} - special
        learnt = vocabulary.keys() - special - self._added
        if not any(letter.isalnum() for token in learnt for letter in token):
            raise ValueError(f"its vocabulary is missing: it holds {len(vocabulary)} tokens and no word")
        self._closed = any(token.endswith("</w>") for token in learnt)  # CLIP's kind: a mark on a word's last piece
        self._mark = next((m for m in "▁Ġ" if any(token.startswith(m) for token in learnt)), None)  # on its first
        self._swap = {} if sep is None else {tokenizer.sep_token_id: sep}
        self.pad = tokenizer.pad_token_id if sep is None else sep
        self.before = int(tokenizer("a")["input_ids"][0] in tokenizer.all_special_ids)

    def __call__(self, text: str) -> list[int]:
        text, t = self._clean(text), self._tokenizer
        marks = {t.bos_token_id, t.eos_token_id, t.pad_token_id, t.cls_token_id, t.sep_token_id, t.mask_token_id}
        ids = t(text)["input_ids"]
        if not marks.isdisjoint(ids[self.before : -1]):  # written out in the text: read as letters
            ids = t(text, split_special_tokens=True)["input_ids"]
        if found := marks.intersection(ids[self.before : -1]):  # or what it makes of letters that it does not know
            mark = t.convert_ids_to_tokens(min(found))
            raise ValueError(f"{text[:60]!r} is read with the mark {mark} inside, as if it ended there; change it")
        return [self._swap.get(i, i) for i in ids]

    def pieces(self, ids: list[int]) -> list[str]:
        """A string for each id, a space behind the end of a word, whatever mark the vocabulary has for it."""
        tokens, whole = self._tokenizer.convert_ids_to_tokens(ids), self._special | self._added
        if self._closed:
            ends = [t in whole or t.endswith("</w>") for t in tokens]
        else:
            opens = [t in whole or (t.startswith(self._mark) if self._mark else not t.startswith("##")) for t in tokens]
            ends = [t in whole or after for t, after in zip(tokens, [*opens[1:], True])]
        letters = _letters((t.encode() if t in whole else self._bytes(t), end) for t, end in zip(tokens, ends))
        return [letter + " " * (end and t not in self._special) for letter, t, end in zip(letters, tokens, ends)]

    def _bytes(self, token: str) -> bytes:
        if self._closed:
            return _raw(token.removesuffix("</w>"))
        if self._mark == "Ġ":
            return _raw(token).strip()
        if byte := re.fullmatch("<0x([0-9A-F]{2})>", token):  # what a vocabulary of letters does without a letter
            return bytes.fromhex(byte[1])
        return token.removeprefix("##").replace(self._mark or "##", " ").strip().encode()


class Missing:
    """Where a model came without tokenizer files: ids can still be given by hand."""

    before, pad = 0, None

    def __init__(self, why: str):
        self._why = why

    def __call__(self, text: str) -> list[int]:
        raise ValueError(self._why)

    def pieces(self, ids: list[int]) -> list[str]:
        """The ids themselves, each as a word."""
        return [f"{i} " for i in ids]
