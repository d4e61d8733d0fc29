"""Files are written by `files.writing` alone, so that they survive a crash."""

import ast

import pytest

from tests.layers_test import MODULES

# The places that write or rename on their own, by module, with the reason.
ELSEWHERE = {
    "checkup.run_checks": "what a command prints, as it prints it",
    "checkup.running": "what a check prints, as it prints it",
    "data.preparing.sorted_runs": "runs larger than memory; flushed by flush_file",
    "data.scoring.score_shards": "an array into memory",
    "files.lease": "a lease in a bucket, where a file is whole or not there",
    "files.lock": "a lock, which dies with its process",
    "files.writing": "the one writer",
    "lab.child": "what a command prints, as it prints it",
    "hugging_face.safetensors_writing": "rows, into a folder that new_folder flushes",
    "files.buckets": "local copies and folders of a bucket, where nothing is renamed",
    "telemetry.bucket_copy": "objects, written again with the next copy",
    "storage.array_format": "into a folder that name_folder flushes",
    "storage.checkpoint_folder": "renames and removes checkpoints that Orbax flushed",
}
WRITERS = {
    *("write_text", "write_bytes", "rename", "renames", "save", "savez", "tofile"),
    *("copyfile", "copyfileobj", "copytree", "move"),
}
NOT_FILES = {"self", "dataclasses", "writer", "saved"}


def writes(tree):
    """Yields the line and the name of each call that writes or renames a file."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = getattr(function, "attr", getattr(function, "id", ""))
        base = getattr(getattr(function, "value", None), "id", "")
        if name in ("open", "fdopen") and not reads(node):
            yield node.lineno, name
        elif isinstance(function, ast.Attribute) and base not in NOT_FILES:
            # str.replace has two arguments; Path.replace and os.replace rename.
            is_rename = name == "replace" and (base == "os" or len(node.args) == 1)
            dumps = name == "dump" and base in ("json", "pickle")
            if (name in WRITERS and not is_method_of_ours(node)) or is_rename or dumps:
                yield node.lineno, name


def is_method_of_ours(node):
    """Returns whether a `save` is a checkpoint's, not numpy's."""
    base = getattr(getattr(node.func, "value", None), "id", "")
    return node.func.attr == "save" and base not in ("np", "numpy", "jnp")


def reads(node):
    """Returns whether a call of `open` asks for no mode, or for one that reads."""
    modes = [
        x.value
        for x in [*node.args, *(k.value for k in node.keywords if k.arg == "mode")]
        if isinstance(x, ast.Constant) and isinstance(x.value, str)
    ]
    return not any(set(mode) & set("wax+") for mode in modes if len(mode) <= 3)


@pytest.mark.parametrize("name", MODULES)
def test_only_listed_modules_write_files_on_their_own(name):
    found = list(writes(MODULES[name]))
    assert name in ELSEWHERE or not found


def test_every_listed_module_still_does():
    assert {name for name, tree in MODULES.items() if list(writes(tree))} == {
        *ELSEWHERE
    }


@pytest.mark.parametrize(
    "line",
    [
        'path.write_text("x")',
        'open(path, "wb")',
        'path.open("a")',
        'open(path, mode="r+")',
        "path.replace(other)",
        "os.replace(a, b)",
        "shutil.copyfile(a, b)",
        "np.save(file, rows)",
        "json.dump(x, file)",
    ],
)
def test_such_a_line_is_noticed(line):
    assert list(writes(ast.parse(line)))


@pytest.mark.parametrize(
    "line", ['open(path, "rb")', "path.open()", 'x.replace("a", "b")', "saved.save(1)"]
)
def test_such_a_line_is_not(line):
    assert not list(writes(ast.parse(line)))
