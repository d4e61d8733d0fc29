"""The text of tokens that follow a prompt, and where it stops."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from salt_jax.data.vocabulary import Vocabulary

# Tokens of a prompt that are decoded with what follows: a vocabulary may drop the space
# that a text begins with.
_CONTEXT = 8
_NO_CHARACTER = "\ufffd"  # What bytes that are not yet, or never, UTF-8 decode to.


@dataclasses.dataclass(frozen=True)
class Detokenizer:
    """How to read what was added to a prompt."""

    vocabulary: Vocabulary
    prompt: Sequence[int]
    stop: Sequence[str] = ()

    def whole_text(self, tokens: Sequence[int]) -> str:
        """Returns what `tokens` add to the text of the prompt."""
        context = list(self.prompt[-_CONTEXT:])
        before = self.vocabulary.decode(context)
        after = self.vocabulary.decode([*context, *tokens])
        alike = itertools.takewhile(_is_pair, zip(before, after, strict=False))
        return after[sum(1 for _ in alike) :]

    def is_stopped(self, tokens: Sequence[int]) -> bool:
        """Whether a stop string is complete."""
        return bool(self.stop) and _end(self.whole_text(tokens), self.stop) is not None

    def text(self, tokens: Sequence[int]) -> str:
        """Returns the text before the first stop string that is complete."""
        text = self.whole_text(tokens)
        return text[: _end(text, self.stop)]

    def tokens(self, tokens: Sequence[int]) -> list[int]:
        """Returns the tokens of which all is before that stop string."""
        tokens = list(tokens)
        if self.is_stopped(tokens):
            text = self.text(tokens)
            while not text.startswith(self.whole_text(tokens)):
                tokens.pop()
        return tokens

    def settled_text(self, tokens: Sequence[int]) -> str:
        """Returns the text that tokens to come cannot change.

        They can complete a character of several bytes, and a stop string.
        """
        text = self.whole_text(tokens)
        end = _end(text, self.stop)
        if end is not None:
            return text[:end]
        text = text.rstrip(_NO_CHARACTER)
        held = max((_begun(text, stop) for stop in self.stop), default=0)
        return text[: len(text) - held]


def check_stop(stop: Sequence[str]) -> None:
    """Raises ValueError if `stop` is not some strings that are not empty."""
    if isinstance(stop, str) or not all(stop):
        raise ValueError(
            f"stop={stop!r} is not a list of strings that are not empty: the first of "
            "them to appear ends a text."
        )


def _end(text: str, stop: Sequence[str]) -> int | None:
    """Returns where that string of `stop` begins which is complete first, or None.

    So a text ends in one place, however many characters come at once.
    """
    found = [(text.index(x) + len(x), text.index(x)) for x in stop if x in text]
    return min(found)[1] if found else None


def _is_pair(letters: tuple[str, str]) -> bool:
    return letters[0] == letters[1]


def _begun(text: str, stop: str) -> int:
    """Returns how many characters at the end of `text` begin `stop`."""
    most = min(len(stop) - 1, len(text))
    return next((n for n in range(most, 0, -1) if text.endswith(stop[:n])), 0)
