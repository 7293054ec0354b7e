"""How many facts `facts_mentioned` finds in what people wrote for them, and how many others it finds there.

    python benchmarks/facts_mentioned.py --data FOLDER

Over E2E's training sentences: every fact of a sentence's own prompt, and for each of its slots every other value that
the slot has anywhere. People leave facts out, so that the first share cannot be 1; the second one ought to be 0.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from autopeft import tasks
from autopeft.tasks._text_metrics.facts_mentioned import facts_of, is_mentioned


def main() -> None:
    """Print a row a slot, and all of them together."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with e2e")
    train = tasks.load(tasks.lookup("e2e/facts"), data=parser.parse_args().data).train
    pairs = [(facts_of(prompt), gold[0]) for (prompt,), gold in zip(train.texts, train.answers, strict=True)]
    values: dict[str, set[str]] = {}
    for facts, _ in pairs:
        for slot, value in facts.items():
            values.setdefault(slot, set()).add(value)
    counts = Counter[tuple[str, str]]()
    for facts, text in pairs:
        for slot, own in facts.items():
            for value in values[slot]:
                kind = "own" if value == own else "other"
                for row in (slot, "all"):
                    counts[row, kind] += 1
                    counts[row, f"{kind} found"] += is_mentioned(slot, value, text)
    print(f"{len(pairs):,} sentences")
    for row in (*values, "all"):
        own, other = ((counts[row, f"{kind} found"], counts[row, kind]) for kind in ("own", "other"))
        print(f"{row}: {own[0]:,} of {own[1]:,} found; of other values {other[0]:,} of {other[1]:,}")


if __name__ == "__main__":
    main()
