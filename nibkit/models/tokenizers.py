"""Tokenizers of all libraries under one face.

tokenizer(text) -> ids from BOS to EOS, not padded; tokenizer.pieces(ids) -> as many strings, a space behind the end of a word.
`before`: tokens in front of the first word (BOS, or none); `pad`: the id that fills texts up, None where nobody sees it.
"""

import functools
from collections.abc import Callable

from clip.simple_tokenizer import SimpleTokenizer


@functools.cache
def _bpe() -> SimpleTokenizer:
    return SimpleTokenizer()


class BPE:
    """CLIP's own: what OpenAI's and most of open_clip's models read."""

    before, pad = 1, None

    def __call__(self, text: str) -> list[int]:
        return [_bpe().encoder["<|startoftext|>"], *_bpe().encode(text), _bpe().encoder["<|endoftext|>"]]

    def pieces(self, ids: list[int]) -> list[str]:
        """A string for each id, a space behind the end of a word."""
        return [_bpe().decoder[i].replace("</w>", " ") for i in ids]


class Pretrained:
    """A tokenizer of transformers. clean: what is done to a text first; sep: an id that takes the separator's place."""

    def __init__(self, tokenizer, clean: Callable[[str], str] = str, sep: int | None = None):
        self._tokenizer, self._clean = tokenizer, clean
        self._swap = {} if sep is None else {tokenizer.sep_token_id: sep}
        self.pad = tokenizer.pad_token_id if sep is None else sep
        self.before = int(self("a")[0] in tokenizer.all_special_ids)

    def __call__(self, text: str) -> list[int]:
        return [self._swap.get(i, i) for i in self._tokenizer(self._clean(text))["input_ids"]]

    def pieces(self, ids: list[int]) -> list[str]:
        """A string for each id, a space behind the end of a word, whatever mark the vocabulary has for it."""
        tokens, special = self._tokenizer.convert_ids_to_tokens(ids), {*self._tokenizer.all_special_tokens}
        special.discard(self._tokenizer.unk_token)  # a word like others
        if any("</w>" in token for token in tokens):  # CLIP's: the mark is on a word's last piece
            return [token.replace("</w>", " ") for token in tokens]
        mark = next((m for m in "▁Ġ" if any(m in token for token in tokens)), None)  # on its first; or ## on all others
        begins = [t in special or (t.startswith(mark) if mark else not t.startswith("##")) for t in tokens] + [True]
        plain = [t if t in special else t.removeprefix("##").replace(mark or "##", " ").strip() for t in tokens]
        return [p + " " * (end and t not in special) for p, t, end in zip(plain, tokens, begins[1:])]


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
