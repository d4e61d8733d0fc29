import jax
import numpy as np

from salt_jax.telemetry import versions


def test_the_versions_are_those_that_are_installed():
    found = versions.of_packages()
    assert set(found) == set(versions.PACKAGES)
    assert (found["jax"], found["numpy"]) == (jax.__version__, np.__version__)


def test_a_package_that_is_missing_is_said_to_be():
    assert versions.of("no-such-package") == "not installed"
