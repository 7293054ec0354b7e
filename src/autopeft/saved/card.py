"""The model card of a saved model, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from autopeft.architecture import Architecture
from autopeft.markup import Markdown, fenced, markdown_templates


def card(record: Mapping[str, Any]) -> str:
    """The model card of what ``architecture.json`` holds. Names, labels and facts of the user's stay text."""
    counts, head = record.get("counts"), {"library_name": "autopeft", "base_model": record["backbone"]["name"]}
    # A label may hold a line break, which would end the line of Markdown that lists it.
    labels = ", ".join(map(_one_line, record["label_names"])) or "a number"
    return (
        markdown_templates(Path(__file__).parent)
        .get_template("card.md.jinja")
        .render(
            # The head is read by the Hub, to which a name that is folded over two lines is another one.
            head=Markdown(yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=10**6)),
            name=record["backbone"]["name"],
            architecture=Architecture.from_dict(record["architecture"]),
            counts=None if counts is None else {kind: f"{value:,}" for kind, value in counts.items()},
            share="" if counts is None else f"{100 * counts['nominal'] / counts['backbone']:.3f}",
            example=fenced(_example(record), "python"),
            facts=[("labels", labels), *((name, _plain(value)) for name, value in sorted(record["facts"].items()))],
        )
    )


def export_card(record: Mapping[str, Any], config: Mapping[str, Any], error: float | None = None) -> str:
    """The model card of an adapter of PEFT that was made of what ``architecture.json`` holds.

    Args:
        config: PEFT's.
        error: of a conversion to LoRA, relative; None where nothing was converted.
    """
    base = str(config["base_model_name_or_path"])
    head = {"library_name": "peft", "base_model": base, "tags": ["autopeft", str(config["peft_type"]).lower()]}
    facts = sorted(record["facts"].items())
    return (
        markdown_templates(Path(__file__).parent)
        .get_template("export_card.md.jinja")
        .render(
            head=Markdown(yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=10**6)),
            name=base,
            architecture=Architecture.from_dict(record["architecture"]),
            example=fenced(_peft_example(base, str(config["task_type"])), "python"),
            kind=config["peft_type"],
            error="" if error is None else f"{error:.1e}",
            facts=[(name, _plain(value)) for name, value in facts],
        )
    )


_CLASSES: Mapping[str, str] = MappingProxyType(
    {"CAUSAL_LM": "AutoModelForCausalLM", "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM", "FEATURE_EXTRACTION": "AutoModel"}
)


def _peft_example(base: str, task_type: str) -> str:
    name = _CLASSES[task_type]
    lines = (
        "from peft import PeftModel",
        f"from transformers import {name}\n",
        f"base = {name}.from_pretrained({_quoted(base)})",
        'model = PeftModel.from_pretrained(base, "path/to/this/folder")',
    )
    return "\n".join(lines)


def _example(record: Mapping[str, Any]) -> str:
    call = (
        'logits = model(**model.tokenizer(["a text"], return_tensors="pt")).logits'
        if record["n_outputs"]
        else f'model.generate(**model.tokenizer([{_quoted(_source(record))}], return_tensors="pt"))'
    )
    return f'import autopeft\n\nmodel = autopeft.load("path/to/this/folder")\n{call}'


def _source(record: Mapping[str, Any]) -> str:
    """How an input of a text-to-text model begins, see `autopeft.tasks._task.Task.source_text`."""
    return " ".join([record["prompt"], *(f"{name}: ..." for name in record["inputs"])])


def _quoted(text: str) -> str:
    """A string of Python in double quotes."""
    # A string of JSON is one of Python, and cannot end early whatever the task's name holds.
    return json.dumps(text, ensure_ascii=False)


def _one_line(label: str) -> str:
    return " ".join(label.split())


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
