"""A small file of every kind that salt_jax writes and reads, and what reads it."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import pickle
import unittest.mock
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath
from jax.experimental import serialize_executable

from salt_jax import config
from salt_jax.compiling import overview, search
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.prepared.manifest import Manifest
from salt_jax.data.prepared.readers import Retries
from salt_jax.data.preparing import prepare_split
from salt_jax.data.preparing.prepare import Preparation, prepare
from salt_jax.data.preparing.shard_writing import WriteShard
from salt_jax.data.preparing.shards import ShardLayout
from salt_jax.data.preparing.sorted_runs import Spill
from salt_jax.data.preparing.workers import WorkerPool
from salt_jax.data.scoring.score_bill import BillWriter, read_bill
from salt_jax.data.scoring.scores import Scores
from salt_jax.files.reading import sha256_of
from salt_jax.files.records import record_bytes, write_record
from salt_jax.hugging_face.checksums import NAME as CHECKSUMS
from salt_jax.hugging_face.checksums import check_checksums
from salt_jax.hugging_face.exporting import export_to_hugging_face
from salt_jax.hugging_face.roles import read_roles
from salt_jax.hugging_face.safetensors_files import open_tensors
from salt_jax.report import after_training
from salt_jax.report.runs import Run
from salt_jax.report.step_clock import StepClock
from salt_jax.storage.export import Export
from salt_jax.telemetry.recorded_commands import read_commands, record_command
from salt_jax.telemetry.warning_log import read_warnings
from salt_jax.training import saved_steps
from salt_jax.training.program import Program
from tests import compared_runs, made_scores, runs
from tests.compiling.overview_test import report
from tests.report.after_training_test import few_shot_row

AT_ONCE = Retries(seconds=())
JSON, BINARY, PLAIN_JSON = "sealed JSON", "binary", "JSON of others"


@dataclasses.dataclass(frozen=True)
class Owned:
    """A file, and what reads it.

    Damage to the file may raise ValueError or OSError with its name, and nothing else.
    `read` returns all that it found, to be compared with what was there before.
    """

    name: str
    path: pathlib.Path
    read: Callable[[], Any]
    kind: str = JSON
    others: tuple[pathlib.Path, ...] = ()  # Valid files that do not belong here.
    share: float = 1.0  # Of the inputs of a campaign, for a slow reader.


def owned_files(folder):
    """Writes the files into `folder`; returns them with their readers."""
    makers = (_prepared, _half_prepared, _scores, _exports, _compiled, _run, _reports)
    runs.make_files(folder / "made")
    return [owned for make in makers for owned in make(folder)]


def _prepared(folder):
    train, val = (folder / "made" / "data" / split for split in ("train", "val"))
    first = sorted(train.glob("*.array_record"))[0]
    again = folder / "again"
    text = dict(corpus=str(folder / "made/corpus"), vocabulary=runs.VOCABULARY)
    prepare(Preparation(**text, output=str(again), seq_len=16, sequences_per_shard=40))
    shards = sorted((again / "train").glob("*.array_record"))

    def manifest(path):
        return dataclasses.asdict(Manifest.read(epath.Path(path)))

    def tokens(path):
        dataset = PreparedDataset.open(path, retries=AT_ONCE)
        return dataset.read(np.arange(len(dataset))).tokens.tolist()

    yield Owned("prepared manifest", train / "manifest.json",
                functools.partial(manifest, train))  # fmt: skip
    yield Owned("prepared shard", shards[0],
                functools.partial(tokens, again / "train"), BINARY,
                (shards[1], first, val / "manifest.json"))  # fmt: skip


def _half_prepared(folder):
    output = folder / "half"
    preparation = Preparation(
        corpus=str(folder / "made/corpus"),
        vocabulary=runs.VOCABULARY,
        output=str(output),
        seq_len=16,
        sequences_per_shard=40,
        splits=("train",),
    )
    stopped = unittest.mock.patch.object(
        prepare_split, "assemble", side_effect=StoppedError
    )
    with stopped, contextlib.suppress(StoppedError):
        prepare(preparation)
    partial = epath.Path(output) / ".train.partial"
    part = json.loads((partial / "runs/part-00000.json").read_text())
    spill = Spill(
        folder=partial / "runs",
        tokenizer=None,
        run_tokens=1,
        keys={0: part["key"]},
    )
    first = sorted((partial / "shards").glob("*.json"))[0]
    count = int(first.name.split("-")[3].partition(".")[0])
    layout = ShardLayout(num_tokens=640 * count, seq_len=16, sequences_per_shard=40)
    write = WriteShard(folder=partial, order=None, layout=layout, num_domains=2)

    def done():
        return write.done(WorkerPool(1, 1)).get(0)

    def counted():
        found = spill.done(0)
        return found and found.counts.to_record()

    def resumed():
        with stopped:
            try:
                prepare(preparation)
            except StoppedError:
                return True

    yield Owned("part of a resumed prepare", _local(partial / "runs/part-00000.json"),
                counted)  # fmt: skip
    yield Owned("report of a shard", _local(first), done)
    yield Owned("settings of a resumed prepare", _local(partial / "settings.json"),
                resumed, share=0.02)  # fmt: skip


class StoppedError(Exception):
    """Ends prepare before a split gets its name."""


def _scores(folder):
    dataset = PreparedDataset.open(folder / "made/data/train")
    count = len(dataset)
    columns = {"mean_loss": np.linspace(1, 2, count).astype(np.float32)}
    path = folder / "scores"
    scores = made_scores.write_scores(path, dataset, columns, shard_size=50)
    other = folder / "other_scores"
    columns = {"mean_loss": np.linspace(5, 6, count).astype(np.float32)}
    made_scores.write_scores(other, dataset, columns, shard_size=50)
    names = [scores.manifest.shard_name(shard) for shard in (0, 1)]
    about = {"seq_len": 16, "flops_per_token": 10, "num_accelerators": 2}
    for _ in range(2):
        with BillWriter(path, **about) as bill:
            bill.read(7)
            bill.write(0)
    (bill_file, *_) = path.glob("bill-*")

    def read():
        found = Scores.open(path, dataset)
        return {name: found.column(name).tolist() for name in found.manifest.columns}

    yield Owned("scores manifest", path / "manifest.json", read)
    yield Owned("score shard", path / names[0], read, BINARY, (path / names[1],))
    yield Owned("bill", bill_file, lambda: dataclasses.asdict(read_bill(path)))


def _exports(folder):
    path, other = folder / "made/teacher", folder / "other"
    runs.make_teacher(other, dataclasses.replace(runs.TEACHER, num_layers=3), seed=2)
    theirs = folder / "theirs"
    export_to_hugging_face(
        Export.open(path), theirs, dtype="float32", shard_bytes=40_000
    )

    def opened():
        export = Export.open(path)
        return dataclasses.asdict(dataclasses.replace(export, path=None))

    def checked():
        return check_checksums(epath.Path(theirs)) or True

    def tensors():
        found = open_tensors(epath.Path(theirs))
        return {name: [*x.shape, x.begin] for name, x in found.items()}

    def roles():
        known = {f"<{i}>": i for i in range(10)}
        return read_roles(epath.Path(folder / "roles"), known)

    for name in ("export.json", "model.json"):
        yield Owned(name, path / name, opened, others=(other / name,))
    yield Owned("vocabulary of an export", path / "vocabulary.model", opened, BINARY,
                (other / "model.json",))  # fmt: skip
    yield Owned("checksums.json", theirs / CHECKSUMS, checked)
    shards = sorted(theirs.glob("*.safetensors"))
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        yield Owned(f"exported {name}", theirs / name, checked, BINARY)
    yield Owned("exported safetensors", shards[0], checked, BINARY, (shards[1],))
    yield Owned("safetensors header", shards[0], tensors, PLAIN_JSON)
    index = theirs / "model.safetensors.index.json"
    yield Owned("safetensors index", index, tensors, PLAIN_JSON)
    (folder / "roles").mkdir()
    for name, said in (
        ("tokenizer_config.json", {"eos_token": {"content": "<1>"}, "pad_token": 2}),
        ("generation_config.json", {"eos_token_id": [1, 3, 99], "bos_token_id": 0}),
    ):
        (folder / "roles" / name).write_text(json.dumps(said))
        yield Owned(f"roles in {name}", folder / "roles" / name, roles, PLAIN_JSON)


def _compiled(folder):
    path = folder / "compiled"
    program = Program.on(runs.experiment(folder / "made"))
    stages = program.stages_from(0)
    steps = {s.name: pickle.dumps((s.name.encode(), None, None)) for s in stages}
    path.mkdir()
    for name, contents in steps.items():
        (path / f"{name}.executable").write_bytes(contents)
    facts = saved_steps.facts(program)
    digests = {name: sha256_of(contents) for name, contents in steps.items()}
    write_record(path / "compiled.json", facts | {"stages": digests})

    def load():
        with (
            unittest.mock.patch.object(saved_steps, "facts", lambda _: facts),
            unittest.mock.patch.object(
                serialize_executable, "deserialize_and_load", lambda x, *_, **__: x
            ),
        ):
            return saved_steps.load_compiled(path, program, stages)

    first, second = (path / f"{name}.executable" for name in steps)
    yield Owned("compiled.json", path / "compiled.json", load)
    yield Owned("compiled step", first, load, BINARY, (second,))


def _run(folder):
    path, other = folder / "run", folder / "other_run"
    compared_runs.write_run(path, (5.0, 4.0), 10.0)
    compared_runs.write_run(other, (5.0, 4.5), 10.0)
    program = config.as_json(runs.experiment(folder / "made"))
    stages = [stage | {"end_step": 100} for stage in program["stages"][-1:]]
    write_record(path / "experiment.json", program | {"stages": stages})
    warned = {"time": 1.5, "level": "WARNING", "message": "a slow disk"}
    write_record(path / "warnings.json", {"warnings": [warned, warned]})
    for line in ("train", "evaluate --tasks=a"):
        record_command(path, line)

    def read():
        return dataclasses.asdict(Run.read(path))

    yield Owned("metrics.jsonl", path / "metrics.jsonl", read)
    for name in ("experiment.json", "evaluation.json", "samples.json"):
        yield Owned(name, path / name, read)
    yield Owned("commands.json", path / "commands.json", lambda: read_commands([path]))
    yield Owned("warnings.json", path / "warnings.json", lambda: read_warnings(path))


def _reports(folder):
    asked = folder / "asked"
    rows = [few_shot_row("next"), few_shot_row("last", part="easy")]
    write_record(asked / "few_shot.json", {"tasks": rows, "slices": rows})
    times = compared_runs.write_step_times(folder / "times.json")
    kept = search._Kept(epath.Path(folder / "search.json"))
    choice = search.Choice(
        remat="full", num_microbatches=2, loss_chunk_tokens=256, model=1
    )
    for key in "abc":
        kept.put(key, search.Found(choice=choice, flops=7, peak=9, fits=True))
    (folder / "salt.json").write_bytes(record_bytes(report()))

    def found():
        kept = search._Kept(epath.Path(folder / "search.json"))
        return [kept.get(key, choice) for key in "abc"]

    yield Owned("few_shot.json", asked / "few_shot.json",
                lambda: after_training.few_shot(asked))  # fmt: skip
    yield Owned("step times", times, lambda: StepClock.read(times).described)
    yield Owned("search.json", folder / "search.json", found)
    yield Owned("compile reports", folder / "salt.json",
                lambda: overview.table_of([folder / "salt.json"]))  # fmt: skip


def _local(path):
    return pathlib.Path(str(path))
