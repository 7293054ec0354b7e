"""Compares a saved decoder with its export, loaded by transformers and peft alone.

    python scripts/compare_with_peft.py runs/decoder-quickstart/adapter runs/decoder-quickstart/peft

Prints the largest difference of their logits, and ends with exit code 1 where it is above 1e-5 of the largest logit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = "Two coffees and one cake for Ada, please.\nOrder:"
TOLERANCE = 1e-5


def logits_of_peft(folder: Path, text: str) -> tuple[torch.Tensor, str]:
    """The logits of `text`, and what is written behind it; nothing of this package is used."""
    name = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(name, dtype="auto"), folder).eval()
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
        said = model.generate(**inputs, max_new_tokens=16, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return logits, str(tokenizer.decode(said[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def logits_of_ours(folder: Path, text: str) -> torch.Tensor:
    """The same by `autopeft.load`."""
    import autopeft

    model = autopeft.load(folder)
    with torch.no_grad():
        found: torch.Tensor = model(**model.tokenizer(text, return_tensors="pt")).logits
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the two folders."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("saved", type=Path, help="what `autopeft train --save` wrote")
    parser.add_argument("exported", type=Path, help="what `autopeft export` made of it")
    given = parser.parse_args(arguments)
    theirs, said = logits_of_peft(given.exported, TEXT)
    ours = logits_of_ours(given.saved, TEXT)
    difference, largest = float((theirs - ours).abs().max()), float(ours.abs().max())
    sys.stdout.write(f"{TEXT}{said}\nlogits differ by {difference:.1e} at most, of {largest:.1f} at most\n")
    if difference > TOLERANCE * max(1.0, largest):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
