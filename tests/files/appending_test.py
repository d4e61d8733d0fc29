import subprocess
import sys

from salt_jax.files.appending import append


def test_pieces_are_added_at_the_end(tmp_path):
    (tmp_path / "file").write_bytes(b"a")
    for piece in (b"b", b"c"):
        append(tmp_path / "file", piece)
        assert (tmp_path / "file").read_bytes().endswith(piece)
    assert (tmp_path / "file").read_bytes() == b"abc"


LIMITED = """
import resource, signal, sys
from salt_jax.files.appending import append

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
append(sys.argv[1], b"x" * 6)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
try:
    append(sys.argv[1], b"y" * 6)
except OSError as error:
    print(error)
print(len(open(sys.argv[1]).read()))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
append(sys.argv[1], b"z" * 6)
"""


def test_a_piece_that_has_no_room_leaves_nothing_of_itself(tmp_path):
    path = tmp_path / "file"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, path], capture_output=True, text=True
    )
    message, size = done.stdout.splitlines()
    assert str(path) in message and size == "6"
    assert path.read_text() == "xxxxxxzzzzzz"
