"""Decodes generated tokens into text, up to the first stop string."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from salt_jax.data.vocabulary import Vocabulary

# Generated tokens are decoded after the last tokens of the prompt, because some
# vocabularies drop a space at the beginning of a text.
_CONTEXT = 8
_NO_CHARACTER = "\ufffd"  # Incomplete or invalid UTF-8 decodes to this.


@dataclasses.dataclass(frozen=True)
class Detokenizer:
    """Decodes the tokens that follow one prompt."""

    vocabulary: Vocabulary
    prompt: Sequence[int]
    stop: Sequence[str] = ()

    def whole_text(self, tokens: Sequence[int]) -> str:
        """Returns the text that `tokens` add to the prompt, with any stop string."""
        context = list(self.prompt[-_CONTEXT:])
        before = self.vocabulary.decode(context)
        after = self.vocabulary.decode([*context, *tokens])
        alike = itertools.takewhile(_is_pair, zip(before, after, strict=False))
        return after[sum(1 for _ in alike) :]

    def is_stopped(self, tokens: Sequence[int]) -> bool:
        """Returns whether the text contains a stop string."""
        return bool(self.stop) and _end(self.whole_text(tokens), self.stop) is not None

    def text(self, tokens: Sequence[int]) -> str:
        """Returns the text before the first stop string."""
        text = self.whole_text(tokens)
        return text[: _end(text, self.stop)]

    def tokens(self, tokens: Sequence[int]) -> list[int]:
        """Returns the tokens that end before the first stop string begins."""
        tokens = list(tokens)
        if self.is_stopped(tokens):
            text = self.text(tokens)
            while not text.startswith(self.whole_text(tokens)):
                tokens.pop()
        return tokens

    def settled_text(self, tokens: Sequence[int]) -> str:
        """Returns the text that is final, whatever tokens follow.

        Text at the end is held back if later tokens could complete a multi-byte
        character or a stop string.
        """
        text = self.whole_text(tokens)
        end = _end(text, self.stop)
        if end is not None:
            return text[:end]
        text = text.rstrip(_NO_CHARACTER)
        held = max((_begun(text, stop) for stop in self.stop), default=0)
        return text[: len(text) - held]


def check_stop(stop: Sequence[str]) -> None:
    """Raises ValueError if `stop` is a string, or contains an empty one."""
    if isinstance(stop, str) or not all(stop):
        raise ValueError(
            f"stop={stop!r} is not a list of nonempty strings: generation ends at the "
            "first of them."
        )


def _end(text: str, stop: Sequence[str]) -> int | None:
    """Returns the start of the stop string that ends first, or None.

    The result does not depend on the number of characters per token.
    """
    found = [(text.index(x) + len(x), text.index(x)) for x in stop if x in text]
    return min(found)[1] if found else None


def _is_pair(letters: tuple[str, str]) -> bool:
    return letters[0] == letters[1]


def _begun(text: str, stop: str) -> int:
    """Returns the length of the longest end of `text` that is a prefix of `stop`."""
    most = min(len(stop) - 1, len(text))
    return next((n for n in range(most, 0, -1) if text.endswith(stop[:n])), 0)
