from salt_jax.report.arms import sections
from salt_jax.report.arms.laboratory import Laboratory
from salt_jax.report.arms.results import results
from tests.report.arms import made_lab


def test_the_intervals_have_each_number_under_its_name(tmp_path):
    found = results(Laboratory.read(made_lab.write_all(tmp_path)))
    table = sections.interval_table(found)
    salt = next(arm for arm in found if arm.name == "salt")
    row = next(row for row in table.rows if row[0].startswith("salt, all"))
    said = dict(zip(table.header[:6], row[:6], strict=True))
    assert said["Teacher is"] == salt.regime
    assert said["Difference"] == f"{salt.all_seeds.difference.mean:+.4f}"
    assert said["Teacher"].startswith(f"{salt.teacher_gap.mean:+.4f}")
    assert salt.teacher_gap.mean != salt.all_seeds.at_equal_flops.mean
