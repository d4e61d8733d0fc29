"""A registered SeqIO task or mixture as the data of a stage.

In a Gin file:

    from __gin__ import dynamic_registration
    from salt_jax import config
    from salt_jax.data.reading import seqio_data

    config.Stage.data = @seqio_data.SeqioData()

    seqio_data.SeqioData:
      task = 'my_task'
      module = 'my.tasks'
      vocabulary = '/data/vocabulary/256k.model'

A task with the single feature "targets" is plain text: its examples are concatenated
and cut into full rows. A task with "inputs" and "targets" is trained with a prefix:
attention over the inputs is bidirectional, and only the targets count in the loss. Its
examples are packed whole, in order, as many as fit a row.

A SeqIO pipeline can only be read from its beginning. So every host reads all of it and
keeps its own rows, and resuming at a step reads and drops all earlier rows. For long
runs, `prepare` the task instead (corpus = 'seqio:my_task'): prepared data can be read
from any row, scored and selected from.
"""

from __future__ import annotations

import dataclasses

from salt_jax.data.reading.rows import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeqioData:
    """The data of a stage, by its name in SeqIO's registry."""

    task: str  # The name of a task or a mixture.
    vocabulary: str  # The vocabulary file of the task.
    module: str | None = None  # Imported first, to register the task.
    split: str = "train"
    shuffle: bool = True  # Every epoch is shuffled differently.
    # Passed to the task as its sequence lengths; SeqIO trims examples to them. None
    # trims nothing, as is right for text; span corruption needs a number.
    inputs_length: int | None = None
    targets_length: int | None = None

    @property
    def has_prefix(self) -> bool:
        """Whether the task has inputs."""
        # Imported here, because TensorFlow is slow to import and rarely needed.
        from salt_jax.data.reading import seqio_source

        return seqio_source.has_inputs(self.task, self.module)

    def open_rows(self, *, seq_len: int, seed: int) -> Rows:
        """Opens the task; no example is read yet.

        Raises:
          FileNotFoundError: there is no vocabulary.
          ValueError: there is no such task, or it has other features or another
            vocabulary.
        """
        from salt_jax.data.reading import seqio_rows, seqio_source

        source = seqio_source.Source.open(
            task=self.task,
            module=self.module,
            vocabulary=self.vocabulary,
            split=self.split,
            lengths={"inputs": self.inputs_length, "targets": self.targets_length},
        )
        return seqio_rows.SeqioRows(
            source, seq_len=seq_len, seed=seed if self.shuffle else None
        )
