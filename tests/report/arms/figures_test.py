from salt_jax.report.arms.bands import Band
from salt_jax.report.arms.figures import curves_figure


def test_a_single_point_is_marked_and_a_curve_is_not():
    short = Band(count=1, steps=[10.0], mean=[0.5], low=None, high=None)
    long = Band(count=1, steps=[10.0, 20.0], mean=[0.5, 0.4], low=None, high=None)
    (axes,) = curves_figure({"short": short, "long": long}, "loss").axes
    assert [line.get_marker() for line in axes.lines] == ["o", "None"]
