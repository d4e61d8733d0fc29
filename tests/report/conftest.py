import pytest

from tests.compared_runs import FLOPS_A_STEP, LOSSES, write_bill, write_run


@pytest.fixture
def runs(tmp_path):
    """Returns the workdirs, as the arguments of `write_report`."""
    for name, losses in LOSSES.items():
        write_run(tmp_path / name, losses, FLOPS_A_STEP[name])
    (tmp_path / "scores").mkdir()
    write_bill(tmp_path / "scores")
    return {name: tmp_path / name for name in (*LOSSES, "scores")}
