"""The model card: what the saved student is, from the summary and its task."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from dwt_cli.tasks.options import Task


def model_card(summary: Mapping[str, Any], config: Mapping[str, Any], task: Task) -> str:
    """Return README.md of the model folder, with the hub's metadata on top."""
    head = {
        "library_name": "transformers",
        "pipeline_tag": task.pipeline_tag,
        "language": "en",
        "tags": [f"{task.head.name}-lm", "distillation-from-weak-teacher"],
    }
    student, teacher = summary["student"], summary["teacher"]
    heldout = student["heldout"]
    chosen = summary["choices"].get("teacher", "none")
    with_whom = "trained alone" if chosen == "none" else f"trained with teacher={chosen}"
    if teacher is not None and teacher["parameters"] > 0:
        with_whom = (
            f"trained with a teacher of {teacher['parameters'] / 1e6:.2f} M parameters "
            f"(held-out loss {teacher['heldout']['loss']:.3f})"
        )
    choices = "\n".join(f"| {group} | {choice} |" for group, choice in summary["choices"].items())
    return f"""---
{yaml.safe_dump(head, sort_keys=False).strip()}
---

# {summary["name"]}

A {task.head.name} language model of {student["parameters"] / 1e6:.2f} M parameters, {with_whom} by
`dwt-train` (Distillation from Weak Teacher, arXiv 2305.18239).

| held-out | |
|---|---|
| cross-entropy per {task.unit} | {heldout["loss"]:.4f} nats |
| perplexity | {heldout["perplexity"]:.2f} |
| accuracy | {heldout["accuracy"]:.2%} |
{_bits_per_byte(heldout)}
It has seen {student["tokens"]:,} tokens in {student["steps"]:,} steps. The run's identity is
`{summary["identity"]}`, its seed {summary["seed"]}.

| group | choice |
|---|---|
{choices}

{_generation(summary.get("samples") or [])}## Settings

```yaml
{yaml.safe_dump(dict(config), sort_keys=False).strip()}
```
"""


def _bits_per_byte(heldout: Mapping[str, float]) -> str:
    bits = heldout.get("bits_per_byte")
    return "" if bits is None else f"| bits per byte of text | {bits:.4f} |\n"


def _generation(samples: Sequence[str]) -> str:
    """Return how a decoder is asked to write, and what it has written."""
    if not samples:
        return ""
    prompt, _, _ = samples[0].partition(" | ")
    written = "\n\n".join(f"    {' '.join(sample.split())}" for sample in samples)
    return f"""## Example

```python
from transformers import pipeline

write = pipeline("text-generation", model="FOLDER")
print(write({prompt!r}, max_new_tokens=40, do_sample=True, top_k=40))
```

Beginnings of held-out text, and after | what the model wrote:

{written}

"""
