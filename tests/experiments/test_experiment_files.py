"""Every experiment file: readable, with its architectures and spaces built on models without weights."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest
from transformers import BertConfig, LlamaConfig, MPNetConfig, RobertaConfig, T5Config

import tiny
from autopeft import samplers, tasks
from autopeft.backbones import Backbone
from autopeft.experiments import Experiment, Place, read
from autopeft.experiments._payoff_rivals import Grid
from autopeft.experiments._payoff_search import Search
from autopeft.experiments.compare import Compare
from autopeft.experiments.contest import Contest
from autopeft.experiments.payoff import Payoff
from autopeft.experiments.retrain import Retrain
from autopeft.network.build import count
from autopeft.objective import percent
from autopeft.session import build_space, resolved
from autopeft.settings import Settings, load, read_yaml
from autopeft.spaces.lattice import SearchSpace
from autopeft.tasks import _protocols as protocols
from autopeft.training.retraining import baseline

FOLDER = Path(__file__).parents[2] / "experiments"
FILES = sorted(path for path in FOLDER.rglob("*.yaml") if "kind" in read_yaml(path))
PLAIN = sorted(path for path in FOLDER.rglob("*.yaml") if "kind" not in read_yaml(path))
Kind = TypeVar("Kind", Compare, Contest, Payoff, Retrain)

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


@cache
def backbone(model: str) -> Backbone:
    """The model's shape on the device "meta": enough for sites and counts."""
    config = {
        "minilm": lambda: BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
        ),
        "bert-base-uncased": BertConfig,
        "bert-large-uncased": lambda: BertConfig(**LARGE),
        "roberta-large": lambda: RobertaConfig(
            **LARGE, vocab_size=50265, max_position_embeddings=514, type_vocab_size=1
        ),
        "models/mpnet": MPNetConfig,
        "models/smollm2": lambda: LlamaConfig(
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            vocab_size=49152,
        ),
        "t5-base": lambda: T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12),
        "runs/t5-tiny": lambda: T5Config(d_model=256, d_kv=64, d_ff=768, num_layers=4, num_heads=4),
        "t5-large": lambda: T5Config(d_model=1024, d_ff=4096, num_layers=24, num_heads=16),
    }[model]()
    return Backbone.from_config(config, device="meta")


@cache
def experiments() -> tuple[Experiment, ...]:
    return tuple(read(path) for path in FILES)


@pytest.mark.slow
def test_results_of_different_files_do_not_mix() -> None:
    names = [found.name for found in experiments()]
    assert len(set(names)) == len(names) >= 20


def parts(kind: type[Kind], path: Path | None = None) -> list[Kind]:
    """All parts of a kind, of one file or of all."""
    files = experiments() if path is None else [read(path)]
    return [part for found in files for part in found.parts.values() if isinstance(part, kind)]


@pytest.mark.parametrize("path", PLAIN, ids=lambda path: path.stem)
def test_the_others_are_settings_of_a_search(path: Path) -> None:
    assert samplers.lookup(load(path).sampler)


def searches_of(part: Payoff) -> list[Settings]:
    """The settings of the searches among its rivals."""
    asked = [(part.rivals[cell.rival], part.asked(cell, Path())) for cell in part.cells()]
    return [rival.settings_of(one) for rival, one in asked if isinstance(rival, Search)]


@pytest.mark.parametrize(
    "path", [path for path in FILES if read_yaml(path)["kind"] == "payoff"], ids=lambda path: path.stem
)
def test_a_grid_of_known_architectures_can_be_paid_for(path: Path) -> None:
    for part in parts(Payoff, path):
        for rival in part.rivals.values():
            if isinstance(rival, Grid):
                assert all(len(baseline(name, backbone(part.settings.model))) for name in rival.baselines)
                assert len(rival.baselines) * len(rival.rates) <= (1 - rival.finals) * part.cost


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_names_what_there_is(path: Path) -> None:
    searched = [part.settings_of(cell) for part in parts(Compare, path) for cell in part.cells()]
    searched += [part.settings_of(cell) for part in parts(Contest, path) for cell in part.cells()]
    searched += [settings for part in parts(Payoff, path) for settings in searches_of(part)]
    for settings in [*searched, *(part.settings for part in [*parts(Retrain, path), *parts(Payoff, path)])]:
        assert settings.task is not None
        task = tasks.lookup(settings.task)
        assert settings.protocol in protocols.PROTOCOLS
        assert settings.protocol in task.protocols
    built: dict[str, SearchSpace] = {}
    for settings in map(resolved, searched):
        # Hundreds of cells search a handful of spaces.
        about = f"{settings.model} {settings.space}"
        if about not in built:
            built[about] = build_space(backbone(settings.model), settings.space)
        space = built[about]
        if samplers.lookup(settings.sampler).reads_trials:
            samplers.build(settings.sampler, space, settings.seed, settings.sampler_options)


@pytest.mark.parametrize(
    "path", [path for path in FILES if read_yaml(path)["kind"] == "retrain"], ids=lambda path: path.stem
)
def test_every_architecture_is_built_or_comes_from_a_search_that_there_is(path: Path, tmp_path: Path) -> None:
    searches = {item.name: item for item in experiments() if item.kind in ("compare", "contest")}
    for part in parts(Retrain, path):
        own = backbone(part.settings.model)
        for name, wanted in part.architectures.items():
            if isinstance(wanted, dict) and "experiment" in wanted:
                source = searches[wanted["experiment"]].parts[wanted.get("task", "")]
                assert isinstance(source, Compare | Contest)
                assert source.settings.model == part.settings.model
                assert set(wanted.get("cells") or ()) <= {cell.name for cell in source.cells()}
            else:
                assert count(own, part.architecture(name, own, Place(tmp_path, "x")), 0).nominal > 0


@pytest.mark.parametrize(
    ("file", "task", "table", "rows"),
    [
        (
            "autopeft-table1",
            "rte",
            "autopeft-table-1",
            {"full": "FFT", "prefix": "Prefix", "lora": "LoRA", "serial": "Serial", "parallel": "Parallel"}
            | {"mam": "MAM", "autopeft-rte-printed": "AutoPEFT-RTE"},
        ),
        ("autopeft-table4", "rte", "autopeft-table-4", {"serial": "Serial"}),
        ("autopeft-table5", "rte", "autopeft-table-5", {"serial": "Serial"}),
    ],
)
def test_the_tables_parameter_counts_come_out(file: str, task: str, table: str, rows: dict[str, str]) -> None:
    part = read(FOLDER / "autopeft" / f"{file}.yaml").parts[task]
    assert isinstance(part, Retrain)
    cells = json.loads((FOLDER / "expected" / f"{table}.json").read_text())["cells"]
    printed = {cell["row"]: cell["mean"] for cell in cells if cell["column"] == "#Param (%)"}
    for cell, row in rows.items():
        own = backbone(part.settings.model)
        share = percent(count(own, part.architecture(cell, own, Place(FOLDER, "x")), 0))
        # The tables print two digits, cut or rounded.
        assert share == pytest.approx(printed[row], abs=0.0101), row


def test_bipefts_baselines_have_the_table_s_ratios() -> None:
    part = read(FOLDER / "bipeft" / "bipeft-baselines.yaml").parts["mrpc"]
    assert isinstance(part, Retrain)
    cells = json.loads((FOLDER / "expected" / "bipeft-table-1-glue.json").read_text())["cells"]
    printed = {cell["row"]: cell["mean"] for cell in cells if cell["column"] == "Ratio (per ten thousand)"}
    own = backbone(part.settings.model)
    for cell, row in {"adapter": "Adapter (copied)", "lora": "LoRA r=8 (copied)"}.items():
        stored = percent(count(own, part.architecture(cell, own, Place(FOLDER, "x")), 0), "stored")
        assert round(100 * stored, 2) == printed[row]


def test_the_ablation_takes_away_one_part_at_a_time_and_repeats_it_enough() -> None:
    from autopeft.searches.bipeft.settings import PRESETS, BipeftSettings

    parts = read(FOLDER / "bipeft-ablation.yaml").parts
    assert set(parts) == {"sst2", "mrpc", "cola"}
    whole, seen = PRESETS["recommended"], set[BipeftSettings]()
    for part in parts.values():
        assert isinstance(part, Contest)
        assert (part.control, len(part.seeds), len(part.retraining_seeds)) == ("bipeft", 5, 3)
        own = {name: replace(whole, **change.get("sampler_options", {})) for name, change in part.samplers.items()}
        assert own["bipeft"] == whole
        assert len(set(own.values())) == len(own) == 14  # every row is another search
        seen |= set(own.values())
    assert {one.variant for one in seen} == {
        "full", "entangled", "binary_then_size", "size_then_binary", "no_selection"
    }  # fmt: skip


def test_bipeft_is_built_on_a_small_model() -> None:
    """Its options are checked by the factory, which needs an evaluator of the space's own backbone."""
    from autopeft.spaces.papers import named
    from autopeft.training.evaluator import Evaluator
    from autopeft.training.recipe import Recipe

    small = tiny.backbone("bert", with_tokenizer=True)
    splits = tiny.splits(tiny.sentiment(16), tiny.sentiment(8))
    evaluator = Evaluator(small, tiny.SENTIMENT, splits, Recipe(max_length=16))
    built = 0
    for part in parts(Contest):
        for change in part.samplers.values():
            if change.get("sampler", part.settings.sampler) == "bipeft":
                options = {**change.get("sampler_options", {}), "evaluator": evaluator, "budgets": ["5%"]}
                name = change["space"]["name"] if "space" in change else str(part.settings.space.name)
                samplers.build("bipeft", named(name, small), 0, options)
                built += 1
    assert built > 60
