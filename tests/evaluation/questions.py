"""A run of fine-tuning that takes seconds, on questions that are written here."""

import json

from salt_jax.config import Answering, Stage, Validation
from salt_jax.data.reading.answers import Answers
from salt_jax.mesh.partitioning import MeshShape
from tests import runs

SEQ_LEN = 48
TOTAL_STEPS = 5
COLORS = ("red", "green", "blue")


def make_questions(folder):
    """Writes the three splits of a set of questions, and an export to start from."""
    for split, count in ("train", 60), ("val", 9), ("test", 7):
        records = [
            {
                "question": f"What colour has number {number}?",
                "answer": COLORS[number % 3],
                "kind": "even" if number % 2 == 0 else "odd",
            }
            for number in range(count)
        ]
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{split}.jsonl").write_text(lines)
    runs.make_teacher(folder / "start", model=runs.STUDENT)


def experiment(folder, *, answering=(), answers=(), **changes):
    """Fine-tunes the export on the questions that `make_questions` wrote."""
    data = dict(source=str(folder), vocabulary=runs.VOCABULARY) | dict(answers)
    asked = dict(max_new_tokens=8, num_questions=4) | dict(answering)
    validation = Validation(
        data=Answers(**data | dict(split="val", columns=("kind",))),
        every=2,
        num_sequences=8,
        answering=Answering(**asked),
    )
    stage = Stage(name="sft", end_step=TOTAL_STEPS, data=Answers(**data))
    fields = dict(
        stages=(stage,),
        initial_export=str(folder / "start"),
        seq_len=SEQ_LEN,
        validation=validation,
        mesh=MeshShape(model=2),
    )
    return runs.experiment(folder, **fields | changes)
