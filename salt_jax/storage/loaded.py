"""A model that was exported, on a mesh, ready to be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
from absl import logging
from etils import epath

from salt_jax.data.vocabulary import Vocabulary
from salt_jax.mesh.memory import available_per_device, check_fits
from salt_jax.mesh.partitioning import (
    AxisRules,
    MeshShape,
    Partitioning,
    bytes_per_device,
)
from salt_jax.model.transformer import Params, Transformer, abstract_params
from salt_jax.storage.export import Export


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """What an export holds, with its parameters on their shards."""

    name: str  # The last part of the export's path.
    model: Transformer
    params: Params
    vocabulary: Vocabulary
    max_length: int  # In tokens, of what is read and written together.

    @classmethod
    def open(
        cls,
        path: epath.PathLike,
        *,
        max_length: int | None = None,
        writes: bool = False,
        dtype: str | None = None,
        mesh: MeshShape = MeshShape(),
        rules: AxisRules = AxisRules(),
        devices: Sequence[jax.Device] | None = None,
    ) -> LoadedModel:
        """Reads the export at `path` onto a mesh over `devices`, by default all.

        Args:
          path: The export.
          max_length: In tokens; by default that of the sequences it was trained with.
          writes: Whether it is to write texts: layers that are stacked are then held
            one by one too, and have to fit.
          dtype: That it computes in, and in which its parameters are held; by default
            they are held as exported and it computes as it was trained.
          mesh: The shape of the mesh.
          rules: Where its arrays lie on the mesh.
          devices: What to load it onto.

        Raises:
          FileNotFoundError: there is no export.
          ValueError: the export is damaged or does not fit the devices.
        """
        export = Export.open(path)
        length = export.max_length(max_length)
        # Where it was trained is not where it is read.
        shape = dataclasses.replace(export.model, remat="none", attention="auto")
        if dtype is not None:
            shape = dataclasses.replace(shape, dtype=dtype)
        partitioning = Partitioning(mesh=mesh.build(devices), rules=rules)
        model = Transformer(shape, partitioning)
        like = abstract_params(model, dtype or export.dtype)
        device = partitioning.mesh.local_devices[0]
        parts = {"parameters": bytes_per_device(like)}
        if writes and shape.scan_layers:
            parts["the same layer by layer"] = parts["parameters"]
        check_fits(parts, available_per_device(device))
        vocabulary = Vocabulary.open(export.vocabulary_path)
        vocabulary.check_model(shape.vocab_size)
        logging.info("Loading %s.", export.path)
        return cls(
            name=export.path.name,
            model=model,
            params=export.load(like),
            vocabulary=vocabulary,
            max_length=length,
        )
