"""Does a BIPEFT search become faster as modules are removed?

    python benchmarks/pruning_speed.py --data FOLDER

One search in S2 on MiniLM with 256 examples of MRPC, every step timed: seconds a step in the first tenth against the
last tenth, as a ratio of medians. Seconds are those of the processor, on one thread (set OMP_NUM_THREADS=1), so that
other work on the machine weighs less. A step is one pass that trains the weights and one that trains the gates. Batches
differ in length from step to step, so there is a control: the same steps of the same search without selection, in
which nothing is removed; its ratio is what is left of the lengths of the batches and of the machine. No search can be
faster than the passes through the frozen backbone that every step needs, so these are timed too, in the last tenth of
the steps with one module left, in the first layer; what is above that floor is the modules' own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import machine
from autopeft import samplers
from autopeft.searches._halves import HalvedTask
from autopeft.searches._problem import TRAIN, VALIDATION
from autopeft.searches._search import supernet_of
from autopeft.searches.bipeft.search import BilevelSearch
from autopeft.session import Session
from autopeft.settings import from_dict


def seconds_of_steps(session: Session, options: dict[str, Any]) -> tuple[list[float], list[int]]:
    """Seconds of every step of one search, and how many modules were left after it."""
    seconds: list[float] = []
    left: list[int] = []
    original = BilevelSearch.step

    def step(search: BilevelSearch) -> bool:
        began = time.process_time()
        has_fired = original(search)
        seconds.append(time.process_time() - began)
        left.append(int(search.supernet.alive.sum()))
        return has_fired

    BilevelSearch.step = step  # type: ignore[method-assign]
    try:
        samplers.build("bipeft", session.space, 0, {"evaluator": session.evaluator, **options}).ask([])
    finally:
        BilevelSearch.step = original  # type: ignore[method-assign]
    return seconds, left


def floor(session: Session, steps: int) -> float:
    """Median seconds of the two passes of a step with one module in the first layer, over the last tenth of `steps`."""
    problem = HalvedTask(session.evaluator, session.evaluator.recipe.batch_size, 0)
    seconds = []
    with supernet_of(session.evaluator, session.space, 0) as supernet, problem.training():
        first = next(index for index, (site, _) in enumerate(supernet.candidates.keys) if site.startswith("encoder.0"))
        supernet.remove(index for index in range(len(supernet)) if index != first)
        for step in range(steps - max(1, steps // 10), steps):
            began = time.process_time()
            for half in (TRAIN, VALIDATION):
                torch.autograd.grad(problem.loss(half, step), [*supernet.parameters_of(first), *problem.head])
            seconds.append(time.process_time() - began)
    return statistics.median(seconds)


def tenths(seconds: list[float]) -> dict[str, float]:
    """Median seconds a step in the first and the last tenth, and how many times faster the last is."""
    n = max(1, len(seconds) // 10)
    first, last = statistics.median(seconds[:n]), statistics.median(seconds[-n:])
    return {"first_tenth": first, "last_tenth": last, "speed_up": first / last, "steps": len(seconds)}


def main() -> None:
    """Measure both searches and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with glue/mrpc")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--budget", default="0.05%")
    parser.add_argument("--preset", default="recommended")
    parser.add_argument("--name", default="pruning_speed")
    given = parser.parse_args()
    before = machine.facts()
    recipe = {"steps": given.steps, "batch_size": given.batch_size}
    session = Session.build(
        from_dict(
            {
                "model": given.model,
                "task": "mrpc",
                "data": str(given.data),
                "train_limit": given.examples,
                "validation_limit": 32,
                "space": {"name": "S2"},
                "recipe": recipe,
                "learning_rates": [],
            }
        )
    )
    options = {"preset": given.preset, "budgets": given.budget, "count": "nominal"}
    seconds, left = seconds_of_steps(session, options)
    plain, _ = seconds_of_steps(session, {**options, "variant": "no_selection", "steps": len(seconds)})
    lowest = floor(session, len(seconds))
    result = {
        "setting": {**vars(given), "data": "glue/mrpc", "space": "S2"},
        "modules": {"at_first": len(session.space.slots), "at_last": left[-1]},
        "with_removal": tenths(seconds),
        "without_removal": tenths(plain),
        "floor_of_last_tenth": lowest,
        "seconds_a_step": seconds,
        "modules_left": left,
    }
    print(f"{len(session.space.slots)} modules at first, {left[-1]} at last")
    for name in ("with_removal", "without_removal"):
        found = result[name]
        print(f"{name}: {found['first_tenth']:.3f} s a step at first, {found['last_tenth']:.3f} s at last: "
              f"{found['speed_up']:.2f} times as fast")  # fmt: skip
    print(f"floor of the last tenth: {lowest:.3f} s a step with one module")
    print(f"written: {machine.write(given.name, result, before)}")


if __name__ == "__main__":
    main()
