"""How many workers a search has is decided by measured numbers, and a machine that cannot be measured has one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest
import torch

from autopeft.architecture import Architecture, Placement
from autopeft.training.chosen_precision import StepBench
from autopeft.training.chosen_workers import StepWorkerBench, choose_workers
from autopeft.training.evaluator import Evaluator
from autopeft.training.recipe import Recipe
from autopeft.training.worker_choice import WorkerChoice
from tiny import SENTIMENT, sentiment, splits
from tiny import backbone as tiny_backbone

GIB = 2**30


def choose(bench: Any, cores: int, free_bytes: int, planned: float) -> WorkerChoice:
    """What is chosen where the cores are dealt out."""
    return choose_workers(bench, cores=cores, threads=lambda n: cores // n, free_bytes=free_bytes, planned=planned)


class Bench:
    """A bench that gives what it was made with."""

    def __init__(self, alone: float, beside: float, peak: int = GIB) -> None:
        self.times, self.peak, self.asked = (alone, beside), peak, list[tuple[int, int]]()

    def alone(self) -> float:
        return self.times[0]

    def beside(self, n: int, threads: int) -> float:
        self.asked.append((n, threads))
        return self.times[1]

    def peak_bytes(self) -> int:
        return self.peak


def test_workers_that_train_more_are_taken() -> None:
    found = choose(Bench(0.5, 0.7), cores=2, free_bytes=20 * GIB, planned=1000)
    assert (found.workers, found.alone, found.beside) == (2, 0.5, 0.7)
    assert "1.43 times" in found.why


def test_workers_that_gain_less_than_a_tenth_are_not() -> None:
    found = choose(Bench(0.5, 0.92), cores=2, free_bytes=20 * GIB, planned=10_000)
    assert found.workers == 1
    assert found.tried == 2


def test_what_is_gained_in_all_must_be_worth_their_start() -> None:
    found = choose(Bench(0.5, 0.8), cores=2, free_bytes=20 * GIB, planned=300)
    assert found.workers == 1
    assert "1.25 times as many steps, which saves 30 s of this search" in found.why


def test_a_short_search_has_one_and_measures_nothing_else() -> None:
    bench = Bench(0.5, 0.5)
    assert choose(bench, cores=2, free_bytes=20 * GIB, planned=100).workers == 1
    assert not bench.asked


def test_there_are_as_many_as_memory_holds() -> None:
    bench = Bench(0.5, 0.5, peak=4 * GIB)
    assert choose(bench, cores=8, free_bytes=16 * GIB, planned=10_000).workers == 3
    assert bench.asked == [(3, 2)]  # eight cores are two threads for each of three
    told = choose(bench, cores=8, free_bytes=9 * GIB, planned=10_000)
    assert told.workers == 1
    assert "4.0 GiB" in told.why


def test_one_core_is_one_worker() -> None:
    assert choose(Bench(1, 1), cores=1, free_bytes=GIB, planned=10_000).why == "there is one core"


def test_what_cannot_be_measured_is_one_worker() -> None:
    class Broken(Bench):
        def beside(self, n: int, threads: int) -> float:
            raise OSError("no process can be had")

    found = choose(Broken(1, 1), cores=2, free_bytes=20 * GIB, planned=10_000)
    assert (found.workers, found.why) == (1, "the measurement failed: no process can be had")


@pytest.mark.slow
def test_steps_are_timed_beside_another_process_and_threads_are_as_before() -> None:
    backbone, threads = tiny_backbone("bert", with_tokenizer=True), torch.get_num_threads()
    tiny_evaluator = Evaluator(backbone, SENTIMENT, splits(sentiment(24), sentiment(16, seed=1)), Recipe(batch_size=8))
    site = next(key for key, site in backbone.sites.items() if site.role == "q")
    steps = StepBench(tiny_evaluator, Architecture((Placement(site, "lora", 2),)), 1)
    bench = StepWorkerBench(steps, "float32", backbone.device, backbone.hidden_size)
    alone = bench.alone()
    assert 0 < alone < 30
    assert 0 < bench.beside(2, 1) < 30
    assert torch.get_num_threads() == threads
    assert bench.peak_bytes() > 2**20
    assert choose(bench, cores=2, free_bytes=2**40, planned=0).alone == pytest.approx(alone, rel=20)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "getppid"), reason="there are no parents of processes")
def test_a_process_to_measure_beside_ends_with_the_one_that_began_it() -> None:
    code = (
        "from autopeft.training.chosen_workers import _multiplying; import psutil, time\n"
        "with _multiplying(8, 1):\n"
        "    print(psutil.Process().children()[0].pid, flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait()
    end = time.monotonic() + 30
    while psutil.pid_exists(number) and time.monotonic() < end:
        time.sleep(0.05)
    assert not psutil.pid_exists(number)
