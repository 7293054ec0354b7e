"""Makes the files of one commit that every later one must read: studies, experiments, saved models.

Run with the code of that commit, never with a later one; what is there is not made again:

    git worktree add --detach ../then 0d8ff55
    PYTHONPATH=../then/src:../then/tests OMP_NUM_THREADS=1 python tests/compatibility/make.py 0d8ff55

The folder ``files/<commit>`` is made, with everything named relative to it. Studies are written as that commit wrote
them; then SQLite packs them into small pages, which changes no row, and names of the machine (its own, and those of
folders in tracebacks) are replaced.
"""

# ruff: noqa: I001  # modules that were moved later are none of ours to the tool that sorts imports

from __future__ import annotations

import contextlib
import csv
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml

import autopeft
import tiny
from autopeft.differentiable import checkpoint
from autopeft.errors import NonFiniteFailure
from autopeft.settings import load as load_settings
from autopeft.study import Claimed
from readings import logits_of, trials_of
from small_case import call

TEXTS = ("good w1 w2", "w3 bad", "w7", "w5 w6 good w8 w9 w10", "bad bad w11 good")
SOURCES = tuple(f"text: {text}" for text in TEXTS)

SMALL = {
    "bert": {"hidden_size": 16, "embedding_size": 16, "num_hidden_layers": 2, "intermediate_size": 32},
    "t5": {"d_model": 16, "d_kv": 4, "d_ff": 32},
}
RECIPE = {"steps": 40, "batch_size": 8, "max_length": 16, "learning_rate": 0.01, "dropout": 0}
SPACE = {"methods": {"serial": {"sizes": [0, 1, 2, 4]}, "parallel": {"sizes": [0, 2]}, "prefix": {"sizes": [0, 1, 2]}}}

PLACED = {
    "methods": {"serial": {"sizes": [0, 1, 2]}, "lora": {"sizes": [0, 1, 2]}},
    "sharing": "placement",
    "layers": "all",
}


def files(name: str) -> dict[str, Any]:
    """Own files as settings name them."""
    parts = {part: f"data/{name}-{part}.csv" for part in ("train", "validation", "test")}
    return {"files": {**parts, "text": ["text"], "label": "label"}, "model": "models/bert", "recipe": RECIPE}


def settings(name: str = "words", **changes: Any) -> dict[str, Any]:
    """Settings of a search without a sweep."""
    return {**files(name), "space": SPACE, "learning_rates": [], "sampler": "random", "initial": 3, **changes}


def write_models() -> None:
    """Two models with random weights, and their tokenizers."""
    for name, changes in SMALL.items():
        tiny.backbone(name, with_tokenizer=True, **changes).model.save_pretrained(f"models/{name}")
        tiny.tokenizer(name).save_pretrained(f"models/{name}")


def write_data() -> None:
    """Two classes, and numbers that follow from the words."""
    Path("data").mkdir()
    for seed, (part, n) in enumerate({"train": 32, "validation": 24, "test": 24}.items()):
        examples = tiny.sentiment(n, seed=seed)
        noise = np.random.default_rng(seed).normal(size=n)
        words = [tiny.SENTIMENT.label_names[int(label)] for label in examples.labels]
        numbers = [f"{2.0 * label + shift:.3f}" for label, shift in zip(examples.labels, noise, strict=True)]
        for name, labels in {"words": words, "numbers": numbers}.items():
            with Path(f"data/{name}-{part}.csv").open("w", newline="") as file:
                rows = csv.writer(file, lineterminator="\n")
                rows.writerow(["text", "label"])
                rows.writerows([text, label] for (text,), label in zip(examples.texts, labels, strict=True))


def done(*arguments: object) -> str:
    """What a command printed; it must succeed."""
    found = call(*arguments)
    if found.code:
        raise SystemExit(f"autopeft {' '.join(map(str, arguments))}: {found.err}")
    return found.out


def write_yaml(path: str, data: Any) -> Path:
    """A YAML file in the folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(yaml.safe_dump(data, sort_keys=False))
    return Path(path)


def search(path: Path, folder: Path, listen: Any = None) -> None:
    """A search of the settings in `path`, which may be interrupted."""
    session = autopeft.Session.build(load_settings(path))
    with contextlib.suppress(KeyboardInterrupt), session.begin(folder) as study:
        session.run(study, session.proxy(study), listen, folder)


def stop_at(number: int) -> Any:
    """A listener that interrupts the search when it begins the trial of this number."""

    def listen(event: Any) -> None:
        if isinstance(event, Claimed) and event.trial.number == number:
            raise KeyboardInterrupt

    return listen


def write_json(path: Path, data: Any) -> None:
    """JSON for people."""
    path.write_text(json.dumps(data, indent=1) + "\n")


def describe(folder: Path) -> None:
    """Beside a study, what this commit read from it and printed of it."""
    write_json(folder / "trials.json", trials_of(folder / "study.db"))
    (folder / "front.json").write_text(done("front", folder, "--json"))
    done("report", folder, "--to", folder / "report.md")
    pack(folder / "study.db")


def pack(path: Path) -> None:
    """The same database in small pages and without a log beside it, and without the names of this machine."""
    here = {str(Path(__file__).parents[2]): "now", str(code().parents[1]): "then", platform.node(): "machine"}
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for name, instead in here.items():
            sql = "UPDATE trial_user_attributes SET value_json = replace(value_json, ?, ?)"
            connection.execute(sql, (name, instead))
        connection.commit()
        for statement in ("PRAGMA journal_mode=DELETE", "PRAGMA page_size=512", "VACUUM"):
            connection.execute(statement)


def random_study() -> None:
    """Interrupted in its ninth trial of twelve; beside it what the same search finds when it is left alone."""
    folder, asked = Path("studies/random"), settings("numbers", trials=12)
    search(write_yaml("settings/random.yaml", asked), folder, stop_at(8))
    done("search", "settings/random.yaml", "--out", "whole")
    write_json(
        folder / "whole.json", [trial for trial in trials_of(Path("whole/study.db")) if trial["value"] is not None]
    )
    describe(folder)


def saas_study() -> None:
    """Half a guided search, with a sweep of the learning rate before it."""
    asked = settings(
        sampler="saas-nehvi", sampler_options={"preset": "recommended"}, trials=6, learning_rates=[3e-3, 1e-2]
    )
    folder = Path("studies/saas")
    search(write_yaml("settings/saas.yaml", asked), folder, stop_at(5))
    describe(folder)


def failed_study() -> None:
    """A search of eight trials: the third diverged, the fifth crashed."""
    asked = settings(trials=8, seed=7)
    session = autopeft.Session.build(load_settings(write_yaml("settings/failed.yaml", asked)))
    n = iter(range(100))

    def evaluate(architecture: Any, seed: int) -> Any:
        number = next(n)
        if number == 2:
            raise NonFiniteFailure("The loss became nan at step 2.")
        if number == 4:
            raise RuntimeError("The evaluation went wrong.")
        return session.evaluator(architecture, seed)

    folder = Path("studies/failed")
    with session.begin(folder) as study:
        study.run(evaluate, session.sampler(folder=folder), session.total, session.initial)
    describe(folder)


def bipeft_study() -> None:
    """One budget of two answered, the second search interrupted at a checkpoint; and both, left alone."""
    options = {"budgets": ["4%", "8%"], "steps": 12, "triggers": 3, "checkpoint_every": 4}
    asked = settings(sampler="bipeft", sampler_options=options, space=PLACED, initial=0, trials=2)
    path, folder = write_yaml("settings/bipeft.yaml", asked), Path("studies/bipeft")
    done("search", path, "--out", "whole-bipeft")
    paths, write = [], checkpoint.write

    def interrupted(path: Path, found: checkpoint.Checkpoint) -> None:
        write(path, found)
        paths.append(path)
        if len(set(paths)) == 2 and paths.count(path) == 2:
            raise KeyboardInterrupt

    with mock.patch.object(checkpoint, "write", interrupted):
        search(path, folder)
    write_json(folder / "whole.json", trials_of(Path("whole-bipeft/study.db")))
    describe(folder)


def settings_files() -> None:
    """Beside the settings of searches, the search that each means."""
    kept = ("choices", "cardinality", "valid", "nominal_parameters", "initial_design", "trials", "steps_a_trial")
    told = {}
    for name in ("random", "saas", "failed", "bipeft"):
        facts = json.loads(done("check", f"settings/{name}.yaml", "--steps", 0, "--json"))
        told[name] = {key: facts[key] for key in kept}
    write_json(Path("settings/expected.json"), told)


EXPERIMENTS: dict[str, dict[str, Any]] = {
    "searches": {
        "kind": "compare",
        "title": "Two samplers, two seeds",
        "settings": settings(trials=4, initial=2, learning_rates=[3e-3, 1e-2]),
        "samplers": {"random": {"sampler": "random"}, "evolution": {"sampler": "evolution"}},
        "seeds": [0, 1],
    },
    "retraining": {
        "kind": "retrain",
        "title": "What was found, and baselines",
        "settings": {**files("words")},
        "architectures": {
            "found": {"experiment": "searches", "cells": ["random-seed0", "random-seed1"], "at": 20},
            "lora": {"baseline": "lora:2", "learning_rate": 3e-2},
            "file": {"file": "../architectures/mix.json"},
        },
        "seeds": [40, 41],
        "learning_rates": [3e-3, 1e-2],
    },
    "rivals": {
        "kind": "contest",
        "title": "Two ways to a budget",
        "settings": settings(trials=3, initial=2),
        "samplers": {
            "apet": {"sampler": "apet", "sampler_options": {"draws": 2}, "space": {"name": "S2"}, "initial": 0},
            "random": {"sampler": "random"},
        },
        "seeds": [4],
        "budgets": ["6%", "12%"],
        "retraining": {"seeds": [0, 1], "recipe": {"steps": 60}},
    },
}


def experiments() -> None:
    """An experiment of each kind: its file, its cells and its page."""
    for name, asked in EXPERIMENTS.items():
        path = write_yaml(f"experiments/{name}.yaml", asked)
        done("experiment", path, "--results", "results", "--work", "work")
        for picture in Path("results").rglob("*.png"):
            picture.unlink()


def placed(*parts: tuple[str, str, int]) -> autopeft.Architecture:
    """An architecture of (site, method, size)."""
    return autopeft.Architecture(tuple(autopeft.Placement(*part) for part in parts))


ARCHITECTURES = {
    "mix": placed(
        ("encoder.0.ffn", "serial", 2),
        ("encoder.1.ffn", "serial", 4),
        ("encoder.1.ffn", "parallel", 3),
        ("encoder.0.kv", "prefix", 2),
    ),
}

SAVED: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "mix": ("words", "1e-2", ("--architecture", "architectures/mix.json")),
    "lora": ("words", "3e-2", ("--baseline", "lora:2")),
    "unipelt": ("words", "1e-2", ("--baseline", "unipelt")),
    "adamix": ("words", "3e-2", ("--baseline", "adamix:2")),
    "biases": ("words", "3e-2", ("--architecture", "architectures/biases.json")),
    "lowrank": ("words", "3e-2", ("--baseline", "adapter_lr:1")),
    "full": ("words", "3e-2", ("--baseline", "full")),
    "mam": ("numbers", "1e-2", ("--baseline", "mam:2")),
    "t5-houlsby": ("t5", "3e-2", ("--baseline", "houlsby:2")),
    "t5-prefix-lora": ("t5-words", "3e-2", ("--architecture", "architectures/t5.json")),
    "t5-saying": ("t5-saying", "3e-2", ("--baseline", "lora:2")),
}


def write_architectures() -> None:
    """Architecture files as this commit writes them."""
    bert, t5 = (autopeft.Backbone.from_pretrained(f"models/{name}") for name in SMALL)
    both = [item for name in ("bitfit", "lnfit") for item in autopeft.baseline(name, bert)]
    mixed = [item for name in ("prefix:2", "lora:2") for item in autopeft.baseline(name, t5)]
    Path("architectures").mkdir()
    made = {"biases": autopeft.Architecture(tuple(both)), "t5": autopeft.Architecture(tuple(mixed)), **ARCHITECTURES}
    for name, architecture in made.items():
        architecture.save(f"architectures/{name}.json")
    told = {name: [str(architecture), architecture.fingerprint] for name, architecture in made.items()}
    write_json(Path("architectures/expected.json"), told)


def saved_models() -> None:
    """A saved model of every kind, and what it answered."""
    asked = {name: files(name) for name in ("words", "numbers")}
    asked["t5"] = {**files("words"), "model": "models/t5"}
    asked["t5-words"] = {**asked["t5"], "label_words": True}
    asked["t5-saying"] = {**asked["t5-words"], "answer": "generate"}
    expected = {}
    for name, (kind, rate, chosen) in SAVED.items():
        path = write_yaml(f"settings/train-{kind}.yaml", asked[kind])
        folder = f"saved/{name}"
        how = ("--seeds", 1, "--learning-rates", rate, "--set", "recipe.steps=120")
        done("train", path, *chosen, *how, "--widen", 0, "--save", folder)
        expected[name] = {
            "logits": logits_of(autopeft.load(folder), list(SOURCES if kind.startswith("t5") else TEXTS)),
            "predictions": autopeft.predictions(folder, [(text,) for text in TEXTS]),
            "described": str(autopeft.Architecture.load(f"{folder}/architecture.json")),
        }
    write_json(Path("saved/expected.json"), {"texts": TEXTS, "sources": SOURCES, "models": expected})


@torch.no_grad()
def export() -> None:
    """A PEFT adapter, and the hidden states that it gave."""
    from peft import PeftModel
    from transformers import AutoModel, AutoTokenizer

    done("export", "saved/lora", "--to", "exported/lora")
    model = PeftModel.from_pretrained(AutoModel.from_pretrained("models/bert"), "exported/lora").eval()
    batch = AutoTokenizer.from_pretrained("models/bert")(list(TEXTS), return_tensors="pt", padding=True)
    write_json(Path("exported/expected.json"), model(**batch).last_hidden_state[:, 0].tolist())


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Everything is named relative to the folder."""
    folder.mkdir(parents=True)
    with contextlib.chdir(folder):
        yield


def code() -> Path:
    """The folder of the package that is imported."""
    assert autopeft.__file__ is not None
    return Path(autopeft.__file__).parent


def check_code(commit: str) -> None:
    """The code that is imported must be that of the commit, unchanged."""
    where = code()
    git = ["git", "-C", str(where)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    changed = subprocess.run([*git, "status", "--porcelain"], check=True, capture_output=True, text=True).stdout
    if not head.startswith(commit) or changed:
        raise SystemExit(f"{where} is at {head.strip()}, changed: {changed!r}; give the code of {commit}.")


def main(commit: str) -> None:
    """Make ``files/<commit>``."""
    check_code(commit)
    with inside(Path(__file__).parent / "files" / commit):
        write_models()
        write_data()
        write_architectures()
        random_study()
        saas_study()
        failed_study()
        bipeft_study()
        settings_files()
        saved_models()
        export()
        experiments()
        for scrap in ("whole", "whole-bipeft", "work"):
            shutil.rmtree(scrap)
        for picture in (*Path().rglob("*.png"), *Path().rglob("__pycache__")):
            os.remove(picture)


if __name__ == "__main__":
    main(sys.argv[1])
