"""Records of a dataset of TensorFlow Datasets.

Nothing is downloaded: datasets are read where `tfds build` wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from salt_jax.data.corpora import tf_examples
from salt_jax.data.corpora.document import find
from salt_jax.data.corpora.tfds_corpus import open_builder


def read(
    name: str, split: str, fields: Sequence[str], *, data_dir: str | None
) -> list[Mapping[str, str | int]]:
    """Returns all records of a split, in their order on disk.

    Args:
      name: "NAME", "NAME/CONFIG", "NAME:VERSION" or "NAME/CONFIG:VERSION".
      split: The name of a split, or a slice of one, such as "train[95%:]".
      fields: The features to return, each text or an integer.
      data_dir: The folder of the datasets; None: the default of TensorFlow Datasets.

    Raises:
      FileNotFoundError: there is no such dataset or split.
      ValueError: a feature is missing or of another type, or a file is damaged.
    """
    # TensorFlow would reserve all accelerator memory.
    tf.config.set_visible_devices([], "GPU")
    builder = open_builder(name, data_dir=data_dir)
    if split.partition("[")[0] not in builder.info.splits:
        raise FileNotFoundError(
            f"tfds:{name} has no split {split!r}; it has {sorted(builder.info.splits)}."
        )
    _check(builder.info.features.get_tensor_spec(), fields, name)
    with tf_examples.translate_errors(f"tfds:{name} {split}"):
        examples = builder.as_dataset(
            split=split,
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
            shuffle_files=False,
        )
        wanted = examples.map(lambda x: {name: find(x, name) for name in fields})
        return [_plain(record) for record in wanted.as_numpy_iterator()]


def _check(spec: Any, fields: Sequence[str], name: str) -> None:
    for field in fields:
        found = find(spec, field)
        if found is None:
            raise ValueError(
                f"tfds:{name} has no feature {field!r}; it has {sorted(spec)}."
            )
        is_one = isinstance(found, tf.TensorSpec) and found.shape == ()
        if not is_one or not (found.dtype == tf.string or found.dtype.is_integer):
            raise ValueError(
                f"The feature {field!r} of tfds:{name} is {found}, not a text or an "
                "integer."
            )


def _plain(record: Mapping[str, Any]) -> Mapping[str, str | int]:
    return {
        name: value.decode() if isinstance(value, bytes) else int(value)
        for name, value in record.items()
    }
