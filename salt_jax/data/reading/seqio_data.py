"""A SeqIO task or mixture, registered by anyone, as what a stage reads.

In a Gin file:

    from __gin__ import dynamic_registration
    from salt_jax import config
    from salt_jax.data.reading import seqio_data

    config.Stage.data = @seqio_data.SeqioData()

    seqio_data.SeqioData:
      task = 'my_task'
      module = 'my.tasks'
      vocabulary = '/data/vocabulary/256k.model'

A task whose one feature is "targets" is plain text: its examples are joined, and cut
into rows that are full. A task with "inputs" and "targets" has examples with a prefix:
the inputs are seen both ways and cost nothing, the targets are predicted. They are put
into a row in the order in which they come, as long as they fit.

A SeqIO pipeline goes from its beginning to its end. So every host reads all of it and
keeps its own rows, and to go on at a step, all rows before are read and dropped. For
a run of any length, `prepare` the same task (corpus = 'seqio:my_task'): what it writes
is read from anywhere at once, and can be scored and selected from.
"""

from __future__ import annotations

import dataclasses

from salt_jax.data.reading.rows import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeqioData:
    """What a stage reads, by its name in SeqIO's registry."""

    task: str  # Or a mixture.
    vocabulary: str  # The same file as that of the task.
    module: str | None = None  # Imported first, to register the task.
    split: str = "train"
    shuffle: bool = True  # Each epoch in an order of its own.
    # What the task's preprocessors are told, and to what SeqIO then trims. None trims
    # nothing, as is right for text; preprocessors that corrupt spans want a number.
    inputs_length: int | None = None
    targets_length: int | None = None

    @property
    def has_prefix(self) -> bool:
        """Whether the task has inputs."""
        # Not at the top: TensorFlow is for those who read with it.
        from salt_jax.data.reading import seqio_source

        return seqio_source.has_inputs(self.task, self.module)

    def open_rows(self, *, seq_len: int, seed: int) -> Rows:
        """Opens the task. It reads nothing before the first rows are read.

        Raises:
          FileNotFoundError: there is no vocabulary.
          ValueError: there is no such task, or it has other features, or its tokens
            are of another vocabulary.
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
