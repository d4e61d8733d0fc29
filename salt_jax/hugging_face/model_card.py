"""What a model says of itself where people choose among models."""

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
    """Returns the README.md of the folder `name`, to which `export` was written."""
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
{dtype}. It has learnt to read texts of up to {max_length:,} tokens, and was trained to
continue them, not to follow instructions.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
prompt = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=32)[0]))
```

A text begins with a token that says so, which the tokenizer puts there.

Where its parameters came from:

{origin or "- (nothing was recorded)"}

SHA-256 of the vocabulary: {export.vocabulary_fingerprint}
Fingerprint of the parameters as exported first, in {export.dtype}: {export.fingerprint}
"""
