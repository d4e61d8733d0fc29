"""Export the parameters of a checkpoint, for use elsewhere.

The export is salt_jax's own, which training, scoring, evaluate and generate read, or
with --format=hf a Hugging Face folder. --format=hf also converts an --export that
exists.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from etils import epath

from salt_jax.commands.options import (
    RunOptions,
    add_average,
    add_distributed,
    add_gin,
    add_workdir,
    join,
    positive,
)
from salt_jax.commands.outputs import alone_writing, record
from salt_jax.files.lock import alone_at

EXAMPLES = """\
  salt_jax export --gin_file=gin/slm_1p5b.gin --step=26000 --output=/exports/slm_early
  salt_jax export --gin_file=gin/slm_1p5b.gin --format=hf
  salt_jax export --format=hf --export=/exports/slm_early --output=/exports/slm_hf"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """The options of export."""

    step: str = "latest"
    average: bool = False
    export: Sequence[str] = ()
    output: str | None = None
    format: str = "salt_jax"
    dtype: str | None = None
    max_length: int | None = None
    distributed: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.max_length is not None and self.format != "hf":
            raise ValueError("--max_length is for --format=hf: leave it out.")
        if self.distributed is not None and self.format == "hf":
            raise ValueError("--format=hf works in one process: leave --distributed.")
        if not self.export:
            return
        if self.gin_file or self.format != "hf":
            raise ValueError("--export=DIR needs --format=hf, and no --gin_file.")
        if len(self.export) > 1 or not self.output:
            raise ValueError("Give one --export=DIR, and --output=DIR.")
        if self.step != "latest" or self.workdir or self.average:
            raise ValueError(
                "--step, --average and --workdir are of a run, --export is not."
            )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of export."""
    add_gin(parser)
    source = parser.add_argument_group("source")
    add_workdir(source.add_argument)
    source.add_argument(
        "--step",
        metavar="N|latest|best",
        help="checkpoint of the run; best has the lowest held-out loss "
        "(default: %(default)s)",
    )
    add_average(source.add_argument)
    source.add_argument(
        "--export",
        action="append",
        metavar="DIR",
        help="export to convert, in place of a run; needs --format=hf",
    )
    add_distributed(source.add_argument)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output",
        metavar="DIR",
        help="where to write (default: export/ or hugging_face/ in the run directory, "
        "with --average export_average/ or hugging_face_average/)",
    )
    group.add_argument(
        "--format",
        choices=("salt_jax", "hf"),
        help="salt_jax's own or Hugging Face's (default: %(default)s)",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="dtype of the written parameters (default: float32; with --export, as "
        "they are)",
    )
    group.add_argument(
        "--max_length",
        type=positive,
        metavar="N",
        help="hf only: context length in tokens (default: the training length)",
    )


def run(options: Options) -> int:
    """Writes the export.

    Raises:
      FileNotFoundError: a gin file, the checkpoint or the export is missing.
      ValueError: something else is at the output, or no Hugging Face class fits.
    """
    if options.export:
        with alone_at(options.output or ""):
            _convert(options, options.export[0], options.output or "")
        record(options.output or "", "export", options)
    else:
        _export_run(options)
    return 0


def _export_run(options: Options) -> None:
    join(options.distributed)
    from salt_jax.config import Experiment
    from salt_jax.export import export_run
    from salt_jax.hugging_face.architectures import architecture_of
    from salt_jax.storage.export_writing import check_new

    experiment = options.load("export", Experiment)
    workdir, dtype = options.run_directory(), options.dtype or "float32"
    suffix = "_average" if options.average else ""

    def export_to(path: epath.Path) -> None:
        export_run(
            experiment,
            workdir,
            path,
            step=options.step,
            dtype=dtype,
            average=options.average,
        )

    if options.format != "hf":
        output = epath.Path(options.output or workdir / f"export{suffix}")
        with alone_writing(output):
            export_to(output)
        record(workdir, "export", options)
        return
    output = epath.Path(options.output or workdir / f"hugging_face{suffix}")
    # Before a checkpoint is read for it.
    architecture_of(experiment.model)
    check_new(output, dtype)
    with alone_writing(output):
        # On the way, and in the way of no other export.
        between = output.parent / f"{output.name}.salt_jax"
        export_to(between)
        _convert(options, between, output)
        between.rmtree()
    record(workdir, "export", options)


def _convert(options: Options, path: epath.PathLike, output: epath.PathLike) -> None:
    """Writes the export at `path` to `output` as a Hugging Face folder."""
    from salt_jax.hugging_face.exporting import export_to_hugging_face
    from salt_jax.storage.export import Export

    export = Export.open(path)
    export_to_hugging_face(
        export,
        output,
        dtype=options.dtype or export.dtype,
        max_length=options.max_length,
    )
    print(f"The model is in {output}, for AutoModelForCausalLM.from_pretrained.")
