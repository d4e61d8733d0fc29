import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FROM_ELSEWHERE = """
import sys
from salt_jax import gin_config
from salt_jax.gin_reading import files
assert files.own_folder().is_relative_to(sys.argv[1]), files.own_folder()
assert gin_config.load(["salt_2p8b.gin"]) == gin_config.load(["gin/salt_2p8b.gin"])
"""


@pytest.mark.slow
def test_an_installed_package_brings_its_gin_files(tmp_path):
    build = [sys.executable, "setup.py", "-q", "build", f"--build-base={tmp_path}"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    built = tmp_path / "lib" / "salt_jax" / "gin_files"
    there, ours = (
        {path.relative_to(folder) for path in folder.rglob("*.gin")}
        for folder in (built, ROOT / "gin")
    )
    assert there == ours
    subprocess.run(
        [sys.executable, "-c", FROM_ELSEWHERE, tmp_path],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "lib")},
        check=True,
    )
