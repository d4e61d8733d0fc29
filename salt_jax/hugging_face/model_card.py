"""The model card: README.md of an exported folder."""

from __future__ import annotations

from salt_jax.hugging_face.architectures import Architecture
from salt_jax.storage.export import Export


def model_card(
    export: Export,
    name: str,
    *,
    architecture: Architecture,
    dtype: str,
    max_length: int,
) -> str:
    """Returns the model card of `export`, written to a folder called `name`."""
    model = export.model
    origin = "\n".join(f"- {key}: {value}" for key, value in export.provenance.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- {architecture.model_type}
- salt_jax
---

# {name}

A decoder language model of {model.num_layers} layers, {model.embed_dim} wide, with a
vocabulary of {model.vocab_size:,}, exported by salt_jax as `{architecture.name}` in
{dtype}. It continues texts of up to {max_length:,} tokens. {_conversations(export)}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
prompt = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=32)[0]))
```

The tokenizer puts a beginning-of-text token in front of every text, as in training.

Origin of the parameters:

{origin or "- (nothing was recorded)"}

SHA-256 of the vocabulary: {export.vocabulary_fingerprint}
Fingerprint of the salt_jax export, in {export.dtype}: {export.fingerprint}
"""


def _conversations(export: Export) -> str:
    if export.chat_template is None:
        return "It has no chat template."
    return "The chat template is that of the model from which it comes."
