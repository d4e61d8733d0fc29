"""Generates text for prompts of any lengths, in batches of few shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from salt_jax.data.vocabulary import Vocabulary
from salt_jax.generation.decoding_batch import DecodingBatch, shape_for
from salt_jax.generation.detokenization import Detokenizer, check_stop
from salt_jax.generation.prefill_decode import DecodingConfig, Prompts, programs
from salt_jax.generation.sampling import Sampling, check_seeds
from salt_jax.generation.unstacked import decoding_model, decoding_params
from salt_jax.model.transformer import Params, Transformer

# New tokens per call of the decoding program: between searches for stop strings, and
# between the pieces of a stream.
_BETWEEN_STOPS = 8
_STREAMED = 4
_FEWEST_COLUMNS = 32  # The smallest prompt length that programs are compiled for.


class Generator:
    """Generates continuations of prompts; parameters are an argument of each call.

    Programs are compiled once per shape and sampling, and shared by all generators of
    a model.
    """

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        max_length: int,
        *,
        batch_size: int = 8,
    ):
        """Takes the maximum length of a prompt with its continuation, in tokens.

        Raises:
          ValueError: `batch_size` is not positive.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is not positive.")
        self._model = model
        self._decoding_model = decoding_model(model)
        self._vocabulary = vocabulary
        self._max_length = max_length
        self._batch_size = batch_size

    def __call__(
        self,
        params: Params,
        prompts: Sequence[Sequence[int]],
        *,
        sampling: Sampling = Sampling(),
        max_new_tokens: int,
        stop: Sequence[str] = (),
        seeds: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """Returns the tokens that follow each prompt, without the end token.

        If there is a stop string, only tokens entirely before it are returned. A token
        that overlaps its beginning is dropped, while `texts` keeps the part of the
        token before it.

        Args:
          params: The model's parameters.
          prompts: The tokens of each prompt, without the begin token.
          sampling: How to sample each token.
          max_new_tokens: The maximum number of new tokens per prompt.
          stop: Generation ends before the first of these strings.
          seeds: A seed for each prompt, combined with `sampling.seed`; by default the
            prompt's index.

        Raises:
          ValueError: a prompt with its new tokens exceeds the model's length, or has
            unknown tokens; an argument is out of range.
        """
        written = self._write(params, prompts, seeds, stop, sampling, max_new_tokens)
        return [detokenizer.tokens(tokens) for detokenizer, tokens in written]

    def texts(
        self,
        params: Params,
        prompts: Sequence[Sequence[int]],
        *,
        sampling: Sampling = Sampling(),
        max_new_tokens: int,
        stop: Sequence[str] = (),
        seeds: Sequence[int] | None = None,
    ) -> list[str]:
        """Returns the text that follows each prompt, up to the first stop string.

        Arguments and errors are those of `__call__`.
        """
        written = self._write(params, prompts, seeds, stop, sampling, max_new_tokens)
        return [detokenizer.text(tokens) for detokenizer, tokens in written]

    def stream(
        self,
        params: Params,
        prompt: Sequence[int],
        *,
        sampling: Sampling = Sampling(),
        max_new_tokens: int,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> Iterator[str]:
        """Yields the text that follows a prompt in pieces.

        Pieces end at whole characters and never contain a part of a stop string.
        Joined, they are what `texts` returns for the prompt and its seed, except that
        invalid UTF-8 may give fewer replacement characters. Other arguments and errors
        are those of `__call__`.
        """
        # Checked at the call, and not only when the first piece is requested.
        self._check([prompt], max_new_tokens, stop, [seed])
        return self._stream(params, prompt, seed, stop, sampling, max_new_tokens)

    def _stream(
        self,
        params: Params,
        prompt: Sequence[int],
        seed: int,
        stop: Sequence[str],
        sampling: Sampling,
        max_new_tokens: int,
    ) -> Iterator[str]:
        detokenizer = Detokenizer(self._vocabulary, prompt, stop)
        params = decoding_params(self._model, params)
        writing = self._prefill(
            params, [prompt], [seed], sampling=sampling, max_new_tokens=max_new_tokens
        )
        shown = 0
        while True:
            (tokens,) = writing.texts
            if writing.is_done or detokenizer.is_stopped(tokens):
                break
            settled = detokenizer.settled_text(tokens)
            if len(settled) > shown:
                yield settled[shown:]
                shown = len(settled)
            writing.decode(_STREAMED)
        rest = detokenizer.text(tokens)[shown:]
        if rest:
            yield rest

    def _write(
        self,
        params: Params,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int] | None,
        stop: Sequence[str],
        sampling: Sampling,
        max_new_tokens: int,
    ) -> list[tuple[Detokenizer, list[int]]]:
        """Returns each prompt's detokenizer and raw tokens, possibly past a stop."""
        seeds = range(len(prompts)) if seeds is None else seeds
        self._check(prompts, max_new_tokens, stop, seeds)
        detokenizers = [
            Detokenizer(self._vocabulary, prompt, stop) for prompt in prompts
        ]
        texts: list[list[int]] = [[] for _ in prompts]
        params = decoding_params(self._model, params)
        # The longest prompts first, so that running out of memory shows at once.
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        for first in range(0, len(order), self._batch_size):
            places = order[first : first + self._batch_size]
            writing = self._prefill(
                params,
                [prompts[i] for i in places],
                [seeds[i] for i in places],
                sampling=sampling,
                max_new_tokens=max_new_tokens,
                rows=min(len(order), self._batch_size),
            )
            while not writing.is_done:
                writing.decode(_BETWEEN_STOPS if stop else max_new_tokens)
                for row, tokens in enumerate(writing.texts if stop else []):
                    if detokenizers[places[row]].is_stopped(tokens):
                        writing.finish(row)
            for place, tokens in zip(places, writing.texts, strict=True):
                texts[place] = tokens
        return list(zip(detokenizers, texts, strict=True))

    def _prefill(
        self,
        params: Params,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        sampling: Sampling,
        max_new_tokens: int,
        rows: int = 1,
    ) -> DecodingBatch:
        vocabulary = self._vocabulary
        config = DecodingConfig(
            model=self._decoding_model,
            sampling=dataclasses.replace(sampling, seed=0),
            num_tokens=vocabulary.size,
            end_ids=vocabulary.end_ids,
        )
        shards = self._decoding_model.partitioning.size("batch")
        columns = shape_for(len(max(prompts, key=len)) + 1, _FEWEST_COLUMNS)
        filled = Prompts.of(
            prompts,
            seeds,
            seed=sampling.seed,
            begin_id=vocabulary.begin_id,
            shape=(shards * shape_for(-(-rows // shards)), columns),
        )
        return DecodingBatch(
            programs(config),
            params,
            filled,
            num_texts=len(prompts),
            end_ids=vocabulary.end_ids,
            max_new_tokens=max_new_tokens,
        )

    def _check(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop: Sequence[str],
        seeds: Sequence[int],
    ) -> None:
        check_stop(stop)
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens} is not positive.")
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts have {len(seeds)} seeds.")
        check_seeds(list(seeds))
        for number, prompt in enumerate(prompts, start=1):
            if len(prompt) + max_new_tokens > self._max_length:
                raise ValueError(
                    f"Prompt {number} has {len(prompt)} tokens, and with "
                    f"max_new_tokens={max_new_tokens} exceeds the {self._max_length} "
                    "that the model reads: shorten it, or lower max_new_tokens."
                )
            known = self._vocabulary.size
            if len(prompt) and not 0 <= min(prompt) <= max(prompt) < known:
                raise ValueError(
                    f"Prompt {number} has tokens from {min(prompt)} to {max(prompt)}, "
                    f"and the vocabulary has 0 to {known - 1}."
                )
