from salt_jax.compiling.overview import (
    COLUMNS,
    PREDICTED,
    overview,
    predictions,
    table_of,
)
from salt_jax.files.records import record_line

GIB = 2**30
LOSS = {"matmul_seconds": 0.1, "embedding_seconds": 0.04, "logits_seconds": 0.0}


def report(**changes):
    moved = [
        {"bytes_per_chip": 2.0 * GIB, "across_slices": False},
        {"bytes_per_chip": 0.5 * GIB, "across_slices": True},
    ]
    program = {
        "bytes_held": {"parameters": GIB, "optimizer": 2 * GIB, "teacher": GIB // 2},
        "bytes_beside": {},
        "bytes_peak": 5 * GIB,
        "fits": True,
        "matmul_seconds": 1.5,
        "loss": LOSS,
        "collectives": moved,
        "lower_seconds": 2.0,
        "compile_seconds": 30.0,
    }
    return {
        "topology": "v5e:16x16",
        "num_slices": 4,
        "usable_bytes_per_chip": int(15.75 * GIB),
        "programs": {"distill": program | changes},
    }


def cells(**changes):
    *_, row = overview({"salt": report(**changes)}).splitlines()
    written = [cell.strip() for cell in row.strip("|").split("|")]
    return dict(zip(COLUMNS, written, strict=True))


def test_a_program_is_a_row_in_gib_milliseconds_and_seconds():
    assert cells() == {
        "run": "salt",
        "pod": "v5e:16x16 x 4",
        "program": "distill",
        "state": "3.00",
        "teacher": "0.50",
        "peak": "5.00",
        "of": "15.75",
        "products": "1,500",
        "loss": "100",
        "its embeddings": "40",
        "its logits": "",
        "sent": "2.00",
        "across slices": "0.50",
        "compiled in": "32 s",
    }


def test_a_run_without_a_report_keeps_its_rows(tmp_path):
    first, second = (tmp_path / f"{name}.json" for name in ("salt", "slm"))
    for path in (first, second):
        path.write_text(record_line(report()))
    both = table_of([first, second])
    first.write_text(record_line(report(bytes_peak=7 * GIB)))
    second.unlink()
    header, line, changed, kept = table_of([first, second], before=both).splitlines()
    assert [header, line, kept] == [*both.splitlines()[:2], both.splitlines()[3]]
    assert "| 7.00 |" in changed
    # The rows of a table with other columns would stand below the wrong names.
    other = table_of([second], before=predictions({"slm": report()}) + f"\n{kept}")
    assert other.splitlines() == [header, line]


def test_what_does_not_fit_is_told():
    assert cells(fits=False)["of"] == "15.75: does not fit"


def test_what_lies_beside_a_program_is_in_its_peak():
    assert cells(bytes_beside={"optimizer": GIB})["peak"] == "6.00"


def test_without_a_loss_or_known_rates_there_are_no_times():
    assert cells(loss=None, matmul_seconds=None)["loss"] == ""
    assert cells(loss=None, matmul_seconds=None)["products"] == ""


PREDICTION = {
    "seconds": 2.0,
    "products_seconds": 1.5,
    "products_at_peak_seconds": 1.2,
    "other_seconds": 0.2,
    "copies_seconds": 0.05,
    "exposed_seconds": 0.2,
    "exposed_across_slices_seconds": 0.05,
    "sending_seconds": 0.4,
    "mfu": 0.5123,
    "hfu": 0.6,
}
BILL = {"student_backward": 2.0, "teacher_forward": 0.0, "total": 8.0}


def predicted(*others, **changes):
    """The cells of the first program of a table, beside `others`."""
    made = report(prediction=PREDICTION, flops_per_token=BILL | changes)
    made["programs"] |= {f"other {i}": other for i, other in enumerate(others)}
    _, _, row, *_ = predictions({"salt": made}).splitlines()
    written = [cell.strip() for cell in row.strip("|").split("|")]
    return dict(zip(PREDICTED, written, strict=True))


def test_a_prediction_is_a_row_in_milliseconds_and_percent():
    assert predicted() == {
        "run": "salt",
        "pod": "v5e:16x16 x 4",
        "program": "distill",
        "step": "2,000",
        "products": "1,500",
        "of them at peak": "1,200",
        "other operations": "200",
        "copies": "50",
        "exposed": "200",
        "across slices": "50",
        "hidden": "150",
        "MFU, %": "51.2",
        "with recomputation, %": "60.0",
        "to the plain step": "",
        "by FLOPs": "",
    }


def test_a_step_with_a_teacher_is_compared_with_the_plain_step_beside_it():
    plain = {"prediction": PREDICTION | {"seconds": 1.6}, "flops_per_token": BILL}
    reading = plain | {"flops_per_token": BILL | {"student_backward": 0.0}}
    found = predicted(reading, plain, teacher_forward=1.0, total=9.0)
    assert (found["to the plain step"], found["by FLOPs"]) == ("1.250", "1.125")
    assert predicted(reading, teacher_forward=1.0)["by FLOPs"] == ""


def test_a_program_without_a_prediction_has_no_row():
    assert len(predictions({"salt": report(prediction=None)}).splitlines()) == 2
    assert len(predictions({"salt": report()}).splitlines()) == 2
