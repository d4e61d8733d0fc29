"""The adapter between an exported model and lm-evaluation-harness."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from salt_jax.few_shot.likelihoods import Likelihood, LikelihoodReader
from salt_jax.few_shot.shared_prefixes import LikelihoodRequest
from salt_jax.generation.generator import Generator
from salt_jax.generation.sampling import Sampling
from salt_jax.storage.loaded import LoadedModel

# lm-eval's sampling options, and its name for whether to sample at all.
_DRAWN_BY = {"temperature", "top_k", "top_p"}
_KNOWN = _DRAWN_BY | {"until", "max_gen_toks", "do_sample"}


class SaltLM(TemplateLM):
    """A loaded model that tokenizes and truncates like lm-eval's `hf` backend.

    A text starts with the begin token, unless truncation on the left removes it. The
    likelihood of a whole text does not include the begin token.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        batch_size: int,
        name: str | None = None,
        read: Callable[[Sequence[LikelihoodRequest]], list[Likelihood]] | None = None,
    ):
        """Takes a model and the number of the longest rows in a batch.

        Args:
          loaded: The model.
          batch_size: The number of the longest rows in a batch; more if shorter.
          name: The name of the model in messages; default: that of its export.
          read: Answers requests; default: a `LikelihoodReader` of the model.

        Raises:
          ValueError: `batch_size` is not positive.
        """
        super().__init__()
        self.name = name or loaded.name
        self._loaded = loaded
        self._read = read or LikelihoodReader(loaded, batch_size, self.name)
        self._generate = Generator(
            loaded.model, loaded.vocabulary, loaded.max_length, batch_size=batch_size
        )

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._loaded.vocabulary.eos_id

    @property
    def prefix_token_id(self) -> int:
        """The token that a text begins with."""
        return self._loaded.vocabulary.begin_id

    @property
    def max_length(self) -> int:
        """The maximum length of a prompt with its continuation, in tokens."""
        return self._loaded.max_length

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Returns the tokens of a text, with the begin token by default."""
        tokens = self._loaded.vocabulary.encode(string)
        return (
            tokens if add_special_tokens is False else [self.prefix_token_id, *tokens]
        )

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Returns each continuation's log-likelihood in nats, and if it is greedy.

        Raises:
          ValueError: a continuation has no token of its own, or is longer than the
            model's length.
        """
        for request in requests:
            context, continuation = request.args
            if not context and not self.tok_encode(continuation, False):
                raise _nothing(context, continuation)
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Iterable[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        requests = list(requests)
        for texts, _context, continuation in requests:
            if not continuation:
                raise _nothing(*texts)
        answers = self._read([LikelihoodRequest(*tokens) for _, *tokens in requests])
        return [(answer.log_likelihood, answer.is_greedy) for answer in answers]

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """Returns the log-likelihood of each text, in nats.

        Long texts are split into windows. Each token is predicted once, with as much
        context as its window allows.
        """
        questions: list[LikelihoodRequest] = []
        ends = [0]
        for request in requests:
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            questions += [
                LikelihoodRequest(*make_disjoint_window(window)) for window in windows
            ]
            ends.append(len(questions))
        nats = [answer.log_likelihood for answer in self._read(questions)]
        return [sum(nats[begin:end]) for begin, end in itertools.pairwise(ends)]

    def generate_until(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[str]:
        """Returns the generated text for each request, up to its stop strings.

        Contexts are truncated on the left to leave room for `max_gen_toks`. Samples
        depend on the index of the request.

        Raises:
          ValueError: `max_gen_toks` leaves no room for a context; a request has a
            sampling option that is not supported.
        """
        texts = [""] * len(requests)
        alike: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            key = json.dumps(request.args[1], sort_keys=True)
            alike.setdefault(key, []).append(place)
        for places in alike.values():
            contexts = [requests[place].args[0] for place in places]
            how = requests[places[0]].args[1]
            for place, text in zip(
                places, self._texts(contexts, how, places), strict=True
            ):
                texts[place] = text
        return texts

    def _texts(
        self, contexts: Sequence[str], how: dict[str, Any], seeds: Sequence[int]
    ) -> list[str]:
        kwargs: dict[str, Any] = dict(normalize_gen_kwargs(how))
        if unknown := sorted(set(kwargs) - _KNOWN):
            raise ValueError(
                f"A task sets the generation options {', '.join(unknown)}; supported "
                f"are {', '.join(sorted(_KNOWN))}. Leave the task out."
            )
        max_new_tokens = kwargs["max_gen_toks"]
        room = self.max_length - max_new_tokens - 1  # Without the begin token.
        if room < 1:
            raise ValueError(
                f"A task asks for {max_new_tokens} new tokens, and {self.name} "
                f"handles {self.max_length} with the prompt: raise --max_length, or "
                "leave the task out."
            )
        drawn_by = _DRAWN_BY & set(kwargs) if kwargs["do_sample"] else ()
        return self._generate.texts(
            self._loaded.params,
            [self._loaded.vocabulary.encode(context)[-room:] for context in contexts],
            sampling=Sampling(**{name: kwargs[name] for name in drawn_by}),
            max_new_tokens=max_new_tokens,
            stop=[string for string in kwargs["until"] if string],
            seeds=seeds,
        )


def _nothing(context: str, continuation: str) -> ValueError:
    """Returns the refusal of a question for the likelihood of nothing."""
    return ValueError(
        f"The continuation {continuation[:60]!r} of {context[-60:]!r} has no token of "
        "its own, so it has no likelihood: mend this question, or leave its task out."
    )
