"""A module imports only from lower rows, and importing it does nothing."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "salt_jax"
LAYERS = [
    {
        "batch",
        "files",
        "gin_reading",
        "mesh",
        "optim",
        "symptoms",
        "transition",
    },
    {"data", "lab", "model", "processes"},
    {"loss", "storage", "studies"},
    {"config"},
    {"gin_config", "telemetry"},
    {"generation", "hugging_face", "training"},
    {"evaluation"},
    {"compiling", "few_shot", "report"},
    {"evaluate", "export", "score", "train"},
    {"bias_variance", "checkup"},
    {"commands"},
    {"main"},
]
LAYER_OF = {name: level for level, layer in enumerate(LAYERS) for name in layer}
# Whatever is not here may be imported anywhere.
TENSORFLOW = {
    "data.corpora.seqio_corpus",
    "data.corpora.seqio_vocabulary",
    "data.corpora.tf_examples",
    "data.corpora.tfds_corpus",
    "data.reading.seqio_rows",
    "data.reading.seqio_source",
    "data.reading.seqio_tasks",
    "data.reading.tfds_records",
}
ONLY_IN = {
    "apache_beam": {"data.preparing.beam_prepare", "data.preparing.beam_split"},
    "datasets": {"few_shot.documents"},
    "gin": {"gin_config", "gin_reading.files", "gin_reading.statements"},
    "lm_eval": {"few_shot.harness", "few_shot.language_model", "few_shot.tasks"},
    "matplotlib": {
        "bias_variance.figures",
        "report.arms.figures",
        "report.figures",
        "report.pictures",
        "report.selection_figures",
        "report.svg",
    },
    "mlflow": {"telemetry.trackers.mlflow_tracker"},
    "msgspec": {"files.lease", "files.records"},
    "orbax": {
        "storage.array_files",
        "storage.checkpoint",
        "storage.checksums",
        "storage.finishing",
    },
    "pyarrow": {"data.corpora.parquet", "data.corpora.parquet_pages"},
    "rouge_score": {"evaluation.answer_scores"},
    "scipy": {"report.intervals"},
    "seqio": TENSORFLOW,
    "tensorflow": TENSORFLOW,
    "tensorstore": {
        "storage.array_format",
        "storage.array_pieces",
        "storage.stored_sums",
    },
    "tensorflow_datasets": TENSORFLOW,
    "tokenizers": {
        "data.tokenizer_json",
        "data.tokenizers_vocabulary",
        "hugging_face.tokenizer_files",
    },
    "tqdm": {"telemetry.progress"},
    "wandb": {"telemetry.trackers.wandb_tracker"},
}


def module_name(path):
    """Returns a module's name in salt_jax; a folder's own is that of `__init__.py`."""
    path = path.parent if path.stem == "__init__" else path.with_suffix("")
    return ".".join(path.relative_to(PACKAGE).parts)


PATHS = [path for path in sorted(PACKAGE.rglob("*.py")) if module_name(path)]
MODULES = {module_name(path): ast.parse(path.read_text()) for path in PATHS}


def imported(tree):
    """Yields the dotted names that a module imports, wherever it does so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(tree):
    """Returns the modules of salt_jax that a module imports, as in `MODULES`."""
    names = {name.removeprefix("salt_jax.") for name in imported(tree)}
    names |= {name.rpartition(".")[0] for name in names}
    return sorted(names & set(MODULES))


each_module = pytest.mark.parametrize("name", MODULES)


def place(name):
    """Returns the entry of `LAYERS` that a module belongs to."""
    while name not in LAYER_OF:
        name, _, last = name.rpartition(".")
        assert last and name, "Every module has a row of its own or of its folder."
    return name


@each_module
def test_a_module_imports_only_from_layers_below_it_or_its_own_folder(name):
    folder = place(name)
    others = {place(other) for other in imported_modules(MODULES[name])}
    upward = {x for x in others - {folder} if LAYER_OF[x] >= LAYER_OF[folder]}
    assert not upward, f"{name}, in row {LAYER_OF[folder]}, imports {upward}"


def test_no_modules_import_one_another_in_a_circle():
    graph = {name: imported_modules(tree) for name, tree in MODULES.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_only_where_it_belongs(library):
    users = {
        name
        for name, tree in MODULES.items()
        if library in {name.split(".")[0] for name in imported(tree)}
    }
    assert users <= ONLY_IN[library]


@each_module
def test_every_public_function_says_the_types_it_takes_and_gives(name):
    untyped = [
        function.name for function in public_functions(MODULES[name]) if lacks(function)
    ]
    assert not untyped


def public_functions(tree):
    """Yields the functions, and the methods of classes, that others may call."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node)
        elif isinstance(node, ast.FunctionDef) and (
            not node.name.startswith("_") or node.name in ("__init__", "__call__")
        ):
            yield node


def lacks(function):
    """Returns whether a function leaves out a type."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    named += [x for x in (arguments.vararg, arguments.kwarg) if x is not None]
    untyped = [x.arg for x in named if x.annotation is None]
    returns = function.returns is not None or function.name == "__init__"
    return not returns or any(name not in ("self", "cls") for name in untyped)


def python(program):
    """Runs a program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
    )


IMPORT_AND_LOOK = """
import importlib, sys
for name in {names}:
    importlib.import_module("salt_jax." + name)
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "an import started JAX"
{more}
"""
NO_TENSORFLOW = "assert 'tensorflow' not in sys.modules, 'TensorFlow was imported'"
NO_TASKS = "import seqio; assert not seqio.TaskRegistry.names(), 'a task is there'"


@pytest.mark.slow
def test_importing_everything_prints_nothing_starts_nothing_and_spares_tensorflow():
    # Apache Beam is an extra, and says on import what else could be installed.
    others = TENSORFLOW | ONLY_IN["apache_beam"]
    names = [name for name in MODULES if name not in others]
    done = python(IMPORT_AND_LOOK.format(names=names, more=NO_TENSORFLOW))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_importing_the_tasks_registers_none():
    done = python(
        IMPORT_AND_LOOK.format(names=["data.reading.seqio_tasks"], more=NO_TASKS)
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
