"""The chat template of a Hugging Face folder, which is kept as it is.

salt_jax formats no conversations: the template comes along, so that an exported model
can be asked as the imported one.
"""

from __future__ import annotations

from absl import logging
from etils import epath

from salt_jax.files.reading import read_file
from salt_jax.hugging_face.roles import read_json
from salt_jax.storage.export import CHAT_TEMPLATE

_KEY = "chat_template"  # Of tokenizer_config.json, where earlier versions write it.


def read_chat_template(folder: epath.Path) -> str | None:
    """Returns the chat template of a folder, or None if it has none.

    Of several named templates it is the one called "default"; a log line names the
    others, which are left out.

    Raises:
      ValueError: the template is not text.
    """
    path = folder / CHAT_TEMPLATE
    said = read_json(folder / "tokenizer_config.json", is_needed=False).get(_KEY)
    if path.exists():
        try:
            said = read_file(path).decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8: fetch it again.") from error
    elif isinstance(said, list):
        named = {x.get("name"): x.get("template") for x in said if isinstance(x, dict)}
        said = named.pop("default", None)
        if named:
            others = sorted(map(str, named))
            logging.info("The chat templates %s of %s are left out.", others, folder)
    if said is not None and not isinstance(said, str):
        raise ValueError(f"{folder} has a {_KEY} that is {type(said).__name__}.")
    return said
