"""Texts as counts of words, with nothing but the standard library and NumPy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


class BagOfWords:
    """Which words of a vocabulary a text has: zeros and ones, as the tags of MIRFlickr.

    Words are runs of letters and digits, in lower case.

    Args:
        vocabulary: the words, in the order of the features; `fit` takes them from texts.
        counts: features are numbers of occurrences, not zeros and ones.

    Raises:
        ValueError: no words, or one twice.

    Example:
        >>> bag = BagOfWords.fit(["a red bus", "a red car", "the car"], words=2)
        >>> bag.vocabulary
        ('a', 'car')
        >>> bag(["A car, a CAR!"]).tolist()
        [[1.0, 1.0]]
    """

    def __init__(self, vocabulary: Sequence[str], counts: bool = False) -> None:
        if isinstance(vocabulary, str):
            raise TypeError(f"vocabulary must be a list of words, got {vocabulary[:40]!r}")
        self.vocabulary = tuple(str(word) for word in vocabulary)
        self.counts = bool(counts)
        self._places = {word: place for place, word in enumerate(self.vocabulary)}
        if not self.vocabulary or len(self._places) < len(self.vocabulary):
            raise ValueError("vocabulary must be at least one word, each once")
        for word in self.vocabulary:
            if split_words(word) != [word]:
                raise ValueError(
                    f"vocabulary must be words in lower case, got {word!r}: no text has it, see "
                    "split_words"
                )

    def __len__(self) -> int:
        return len(self.vocabulary)

    def __repr__(self) -> str:
        return f"BagOfWords({len(self):,} words)"

    def describe(self) -> dict[str, Any]:
        """What `coophash.features.make_source` makes it from, for JSON."""
        return {"kind": "words", "vocabulary": list(self.vocabulary), "counts": self.counts}

    @classmethod
    def fit(
        cls, texts: Iterable[str], words: int = 1000, least: int = 1, counts: bool = False
    ) -> BagOfWords:
        """The words that are in the most texts; of equally frequent ones the first in the alphabet.

        Args:
            texts: to take the words from: those that train.
            words: at most so many.
            least: in at least so many texts.
            counts: as above.

        Raises:
            TypeError, ValueError: texts that are one text, or that have no word often enough.
        """
        if words < 1 or least < 1:
            raise ValueError(f"words and least must be at least 1, got {words} and {least}")
        found: Counter[str] = Counter()
        for text in _texts(texts):
            found.update(set(split_words(text)))
        kept = sorted(((-n, word) for word, n in found.items() if n >= least))[:words]
        if not kept:
            raise ValueError(f"texts have no word in {least} or more of them")
        return cls([word for _, word in kept], counts)

    def __call__(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Features of texts: (N, len(self)) float32. Words outside the vocabulary do not count."""
        rows = _texts(texts)
        features = np.zeros((len(rows), len(self)), np.float32)
        for row, text in enumerate(rows):
            for word in split_words(text):
                place = self._places.get(word)
                if place is not None:
                    features[row, place] = features[row, place] + 1 if self.counts else 1
        return features


def split_words(text: str) -> list[str]:
    """The words of a text, in lower case, in order."""
    return _WORD.findall(text.lower())


def _texts(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise TypeError(f"texts must be a list of texts, got the text {texts[:40]!r}: give a list")
    listed = list(texts)
    for text in listed:
        if not isinstance(text, str):
            raise TypeError(f"texts must be a list of texts, got {text!r} in it")
    return listed
