"""An exported model, loaded onto a mesh."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
from absl import logging
from etils import epath

from salt_jax.data.vocabulary import Vocabulary
from salt_jax.mesh.memory import available_per_device, bytes_per_device, check_fits
from salt_jax.mesh.partitioning import AxisRules, MeshShape, Partitioning
from salt_jax.model.transformer import Params, Transformer, abstract_params
from salt_jax.processes import job
from salt_jax.storage.export import Export


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model, its vocabulary and its parameters on the mesh."""

    name: str  # The name of the export's directory.
    model: Transformer
    params: Params
    vocabulary: Vocabulary
    max_length: int  # Tokens of prompt and continuation together.

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
        available: int | None = None,
    ) -> LoadedModel:
        """Loads the export at `path` onto a mesh.

        Args:
          path: The export.
          max_length: Tokens of prompt and continuation together; default: the length
            of the training sequences.
          writes: Whether to reserve memory for the unstacked copy of the layers that
            decoding needs.
          dtype: The dtype of computation and parameters; default: computation as in
            training, parameters as exported.
          mesh: The shape of the mesh.
          rules: The sharding rules.
          devices: The devices of the mesh; default: all.
          available: The memory per device, in bytes; default: all that it has.

        Raises:
          FileNotFoundError: there is no export.
          ValueError: the export is damaged or does not fit the devices.
        """
        export = Export.open(path)
        length = export.max_length(max_length)
        # Remat and the attention kernel were chosen for the devices of training.
        shape = dataclasses.replace(export.model, remat="none", attention="auto")
        if dtype is not None:
            shape = dataclasses.replace(shape, dtype=dtype)
        partitioning = Partitioning(mesh=mesh.build(devices), rules=rules)
        model = Transformer(shape, partitioning)
        like = abstract_params(model, dtype or export.dtype)
        if available is None:
            available = available_per_device(partitioning.mesh.local_devices[0])
        parts = {"parameters": bytes_per_device(like)}
        if writes and shape.scan_layers:
            parts["the same layer by layer"] = parts["parameters"]
        check_fits(parts, available)
        vocabulary = Vocabulary.open(export.vocabulary_path)
        vocabulary.check_model(shape.vocab_size)
        job.agree({"export": export.fingerprint})
        logging.info("Loading %s.", export.path)
        return cls(
            name=export.path.name,
            model=model,
            params=export.load(like),
            vocabulary=vocabulary,
            max_length=length,
        )
