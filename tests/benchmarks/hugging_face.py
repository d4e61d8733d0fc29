"""Prints how fast models go to and from Hugging Face, and the memory that it takes.

A random Llama of float32 tensors is imported, exported, and by the way loaded and saved
by transformers. Each is a process of its own. The bound is 1.5 times the largest tensor
and 1 GiB; what comes back has to be what was there, byte for byte.

Run from the root of the repository: python tests/benchmarks/hugging_face.py
"""

import filecmp
import json
import math
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
from etils import epath

from salt_jax.data.vocabulary import Vocabulary
from salt_jax.hugging_face.architectures import architecture_of
from salt_jax.hugging_face.config_json import write_model
from salt_jax.hugging_face.exporting import export_to_hugging_face
from salt_jax.hugging_face.importing import import_from_hugging_face
from salt_jax.hugging_face.safetensors_writing import write_tensors
from salt_jax.hugging_face.tensors import tensors_of
from salt_jax.hugging_face.tokenizer_files import tokenizer_files
from salt_jax.model.config import TransformerConfig
from salt_jax.storage.export import Export

VOCABULARY = "embedded:tokenizer/spm_4k.model"
MODEL = TransformerConfig(
    vocab_size=16_384,
    num_layers=2,
    embed_dim=4096,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
    mlp_dim=24_576,
    activation="silu",
    scale_embedding=False,
    tied_embedding=False,
)
MIB = 1 << 20


def write_folder(folder: epath.Path) -> tuple[int, int]:
    """Writes a random model; returns the bytes of all tensors and of the largest."""
    folder.mkdir(parents=True)
    tensors = tensors_of(MODEL, architecture_of(MODEL))
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    draw = np.random.default_rng(0)

    def rows_of(name):
        shape = shapes[name]
        for row in np.array_split(np.arange(shape[0]), max(1, math.prod(shape) >> 24)):
            yield draw.standard_normal((len(row), *shape[1:]), np.float32)

    write_tensors(folder, shapes, "float32", rows_of, shard_bytes=2_000_000_000)
    special_tokens = {"bos_token_id": 0, "eos_token_id": 1}
    about = write_model(
        MODEL, max_length=2048, dtype="float32", special_tokens=special_tokens
    )
    (folder / "config.json").write_text(json.dumps(about))
    for name, content in tokenizer_files(Vocabulary.open(VOCABULARY)).items():
        (folder / name).write_bytes(content)
    sizes = [4 * math.prod(shape) for shape in shapes.values()]
    return sum(sizes), max(sizes)


def run_import(source: str, output: str) -> None:
    """Imports the folder `source`."""
    import_from_hugging_face(source, output)


def run_export(source: str, output: str) -> None:
    """Exports the export `source`."""
    export_to_hugging_face(
        Export.open(source), output, dtype="float32", shard_bytes=2_000_000_000
    )


def run_transformers(source: str, output: str) -> None:
    """Loads and saves the folder `source` with transformers."""
    import transformers

    transformers.AutoModelForCausalLM.from_pretrained(source).save_pretrained(output)


def peak() -> int:
    """Returns the most memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(work: str, source: pathlib.Path, output: pathlib.Path) -> dict[str, float]:
    """Returns the seconds and the peak of a new process that does some work."""
    done = subprocess.run(
        [sys.executable, __file__, work, source, output],
        env=os.environ | {"PYTHONPATH": os.getcwd(), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Prints one line for each way, and whether the bytes came back."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        theirs, ours, back = (folder / x for x in ("theirs", "ours", "back"))
        total, largest = write_folder(epath.Path(theirs))
        bound = 1.5 * largest + 1024 * MIB
        print(
            f"{total / 1e9:.2f} GB of tensors, the largest {largest / 1e6:.0f} MB; "
            f"at most {bound / MIB:.0f} MiB allowed"
        )
        begin = time.monotonic()
        shutil.copytree(theirs, folder / "copy")
        subprocess.run(["sync"], check=True)
        copying = total / (time.monotonic() - begin)
        print(f"copying it       {copying / 1e6:6.0f} MB/s")
        shutil.rmtree(folder / "copy")
        for work, source, output in (
            ("import", theirs, ours),
            ("export", ours, back),
            ("transformers", theirs, folder / "saved"),
        ):
            seen = measure(work, source, output)
            speed = total / seen["seconds"]
            print(
                f"{work:16} {speed / 1e6:6.0f} MB/s ({speed / copying:.2f} of "
                f"copying), {seen['peak'] / MIB:6.0f} MiB at most "
                f"({seen['peak'] / bound:.2f} of the bound, "
                f"{seen['peak'] / total:.2f} of the tensors)"
            )
            shutil.rmtree(folder / "saved", ignore_errors=True)
        files = sorted(x.name for x in theirs.glob("*.safetensors"))
        same, *_ = filecmp.cmpfiles(theirs, back, files, shallow=False)
        print(f"{len(same)} of {len(files)} files came back byte for byte")


WORKS = {
    "import": run_import,
    "export": run_export,
    "transformers": run_transformers,
}

if __name__ == "__main__":
    if len(sys.argv) > 1:
        begin = time.monotonic()
        WORKS[sys.argv[1]](*sys.argv[2:])
        print(json.dumps({"seconds": time.monotonic() - begin, "peak": peak()}))
    else:
        main()
