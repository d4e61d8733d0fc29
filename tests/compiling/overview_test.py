from salt_jax.compiling.overview import COLUMNS, overview

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


def test_what_does_not_fit_is_told():
    assert cells(fits=False)["of"] == "15.75: does not fit"


def test_what_lies_beside_a_program_is_in_its_peak():
    assert cells(bytes_beside={"optimizer": GIB})["peak"] == "6.00"


def test_without_a_loss_or_known_rates_there_are_no_times():
    assert cells(loss=None, matmul_seconds=None)["loss"] == ""
    assert cells(loss=None, matmul_seconds=None)["products"] == ""
