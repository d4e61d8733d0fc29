"""Datasets of TensorFlow Datasets as corpora.

Nothing is downloaded: datasets are read where `tfds build` wrote them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import read_only_builder

from salt_jax.data.corpora import tf_examples
from salt_jax.data.corpora.document import Fields


@dataclasses.dataclass(frozen=True)
class TfdsShard:
    """A shard of a split of a TFDS dataset, as a part of a corpus."""

    folder: epath.Path  # The folder of one version of the dataset.
    dataset: str  # The name, configuration and version.
    split: str
    index: int
    fields: Fields

    @property
    def name(self) -> str:
        """The dataset, the split and the shard."""
        return f"tfds:{self.dataset} {self.split} shard {self.index}"

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the dataset's name and of the shard's file."""
        digest = hashlib.sha256(self.dataset.encode())
        with self._info().filepaths[self.index].open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def blocks(self) -> Iterator[tf_examples.Examples]:
        """Yields all examples in blocks.

        Raises:
          ValueError: the file is damaged.
        """
        if not self._info().shard_lengths[self.index]:
            return
        builder = tfds.builder_from_directory(self.folder)
        instruction = tfds.core.ReadInstruction(
            self.split, from_=self.index, to=self.index + 1, unit="shard"
        )
        examples = builder.as_dataset(
            split=instruction,
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
            shuffle_files=False,
        )
        yield from tf_examples.in_blocks(examples, self.fields, self.name)

    def _info(self) -> tfds.core.SplitInfo:
        return tfds.builder_from_directory(self.folder).info.splits[self.split]


def tfds_shards(
    name: str, split: str, fields: Fields, *, data_dir: str | None
) -> list[TfdsShard]:
    """Returns the shards of a split of a dataset in `data_dir`.

    Args:
      name: "NAME", "NAME/CONFIG", "NAME:VERSION" or "NAME/CONFIG:VERSION".
      split: The name of the split.
      fields: The features with the text and the domain, as dotted paths.
      data_dir: The folder of the datasets; None: the default of TensorFlow Datasets.

    Raises:
      FileNotFoundError: there is no such dataset, split or file.
      ValueError: a feature is missing or is not text.
    """
    builder = open_builder(name, data_dir=data_dir)
    if split not in builder.info.splits:
        raise FileNotFoundError(
            f"tfds:{name} has no split {split!r}; it has {sorted(builder.info.splits)}."
        )
    spec = builder.info.features.get_tensor_spec()
    tf_examples.check(spec, fields, f"tfds:{name}")
    folder = epath.Path(builder.data_path)
    shards = [
        TfdsShard(folder, builder.info.full_name, split, index, fields)
        for index in range(builder.info.splits[split].num_shards)
    ]
    for shard, file in zip(shards, builder.info.splits[split].filepaths, strict=True):
        if not file.exists():
            raise FileNotFoundError(
                f"{shard.name} should be in {file}, which is missing: build it again."
            )
    return shards


def open_builder(name: str, *, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """Returns the builder of a dataset in `data_dir`.

    Raises:
      FileNotFoundError: there is no such dataset.
    """
    try:
        return read_only_builder.builder_from_files(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        where = data_dir or tfds.core.constants.DATA_DIR
        raise FileNotFoundError(
            f"TensorFlow Datasets finds no {name!r} in {where}: set data_dir, or run "
            "`tfds build` first; nothing is downloaded here."
        ) from error
