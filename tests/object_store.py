"""A server that speaks the protocol of Google Cloud Storage, for tests of buckets.

As a script it serves an empty bucket, "bucket", until it is ended:
python -m tests.object_store FILE, which gets the address.
"""

import contextlib
import functools
import http.server
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

BUCKET = "gs://bucket"


@contextlib.contextmanager
def serving():
    """Runs a server; yields the environment variables by which clients find it."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "address"
        command = [sys.executable, "-m", "tests.object_store", str(file)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                yield variables(_address(process, file), folder)
            finally:
                process.kill()


def variables(address, folder):
    """Returns environment variables: of both clients, with no search for accounts."""
    return {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "SALT_JAX_BUCKET_FILES": f"{folder}/local",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "GCE_METADATA_HOST": "127.0.0.1:1",
        "NO_GCE_CHECK": "true",
    }


def _address(process, file):
    for _ in range(600):
        if file.exists() and (address := file.read_text()):
            return address
        if process.poll() is not None:
            raise RuntimeError(f"The object store ended with {process.returncode}.")
        time.sleep(0.05)
    raise RuntimeError("The object store did not start.")


def serve(file):
    """Serves until the process is ended; writes the address to `file`."""

    from gcp_storage_emulator.handlers import objects
    from gcp_storage_emulator.server import HANDLERS, RequestHandler, create_server

    for _, handlers in HANDLERS:
        for method, handler in handlers.items():
            if handler in (objects.get, objects.download, objects.insert):
                handlers[method] = functools.partial(_with_generations, handler)
    answer = RequestHandler.do_POST
    RequestHandler.do_POST = lambda self: _refuse_moves(self) or answer(self)
    http.server.HTTPServer.request_queue_size = (
        128  # Five, of which the sixth waits a second.
    )
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
    server.start()
    host, port = server._api._httpd.server_address
    pathlib.Path(file).write_text(f"http://{host}:{port}")


def _with_generations(handler, request, response, storage):
    """Adds what this server lacks: an object's generation, and conditions on it."""
    bucket = request.params["bucket_name"]
    name = request.params.get("object_id") or request.query.get("name", [""])[0]
    try:
        found = storage.get_file_obj(bucket, name)["generation"]
    except Exception:
        found = "0"
    wanted = request.query.get("ifGenerationMatch", [found])[0]
    unwanted = request.query.get("ifGenerationNotMatch", [None])[0]
    if found != wanted:
        response.status = http.HTTPStatus(412)
    elif found == unwanted:
        response.status = http.HTTPStatus(304 if request.method == "GET" else 412)
    else:
        response["x-goog-generation"] = found
        handler(request, response, storage)


def _refuse_moves(request):
    """Refuses to move and copy objects, which would not be atomic for a folder."""
    if re.search("/(moveTo|rewriteTo|copyTo)/", request.path):
        request.send_error(400, "Objects are not moved in these tests.")
        return True


if __name__ == "__main__":
    os.environ.pop("STORAGE_EMULATOR_HOST", None)
    serve(sys.argv[1])
