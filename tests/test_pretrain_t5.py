"""The script that pretrains a very small T5."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pretrain_t5 as script
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autopeft.backbones import Backbone

TEXTS = [f"the {who} {does} the {what} ." for who in ("cat", "dog", "man") for does in ("sees", "likes", "has")
         for what in ("house", "tree", "car", "river")]  # fmt: skip
SMALL = {"steps": 6, "batch_size": 4, "length": 24, "warmup": 2, "width": 16, "layers": 1, "heads": 2, "inner": 16,
         "vocabulary": 60}  # fmt: skip


@given(st.integers(2, 200), st.integers(0, 1000), st.floats(0.05, 0.6), st.floats(1, 6))
def test_noise_hides_the_share_asked_for_in_spans_apart_from_each_other(
    length: int, seed: int, density: float, mean_span: float
) -> None:
    hidden = script.noise(length, np.random.default_rng(seed), density, mean_span)
    assert hidden.shape == (length,)
    assert not hidden[0]
    n_noise = min(max(round(length * density), 1), length - 1)
    assert hidden.sum() == n_noise
    starts = int((hidden[1:] & ~hidden[:-1]).sum())
    assert starts == min(max(round(n_noise / mean_span), 1), length - n_noise)


@given(st.integers(2, 120), st.integers(0, 1000))
def test_source_and_target_together_are_the_segment(length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 900, length)
    source, target = script.corrupt(tokens, script.noise(length, rng), first_sentinel=1000, end=1)
    assert source[-1] == target[-1] == 1
    told: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token >= 1000:
            told[int(token)] = []
        else:
            told[max(told)].append(int(token))
    rebuilt: list[int] = []
    for token in source[:-1]:
        rebuilt += told[int(token)] if token >= 1000 else [int(token)]
    # The target opens with the sentinel of the kept span before its first tokens; sentinels count from 0 in both.
    assert rebuilt == tokens.tolist()
    assert [token for token in source if token >= 1000] == [1000 + n for n in range(len(told))]


def test_every_list_of_parts_is_possible() -> None:
    rng = np.random.default_rng(0)
    found = {tuple(script._parts(4, 2, rng)) for _ in range(200)}  # misses one of three once in 1e35
    assert found == {(1, 3), (2, 2), (3, 1)}


def test_segments_hold_the_documents_in_random_order() -> None:
    documents = [np.full(5, number) for number in range(4)]
    found = script.segments(documents, 10, np.random.default_rng(0))
    assert found.shape == (2, 10)
    assert sorted(np.unique(found)) == [0, 1, 2, 3]
    assert script.segments(documents[:1], 12, np.random.default_rng(0)).shape == (1, 12)


def test_texts_are_those_of_training_parts_each_once(tmp_path: Path) -> None:
    folder = tmp_path / "glue" / "rte"
    folder.mkdir(parents=True)
    rows = [{"sentence1": "One. ", "sentence2": "Two.", "label": 0, "idx": 3}, {"sentence1": "One.", "label": "Three."}]
    with gzip.open(folder / "train.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    (folder / "validation.jsonl").write_text('{"sentence1": "Not this."}\n', encoding="utf-8")
    own = tmp_path / "own.txt"
    own.write_text("Four.\n\nTwo.\n", encoding="utf-8")
    assert script.texts_of(tmp_path, [own]) == ["One.", "Two.", "Four."]


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    rows = [{"sentence": "One\u2028two."}, {"sentence": "Three."}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "train.jsonl").write_text(lines, encoding="utf-8")
    assert script.texts_of(tmp_path, []) == ["One\u2028two.", "Three."]


def test_there_may_be_no_warm_up() -> None:
    plan = script.Plan(**{**SMALL, "warmup": 0})
    run = script.Pretraining(plan, script.tokenizer_of(TEXTS, plan.vocabulary), TEXTS)
    run.step()
    assert run.optimiser.param_groups[0]["lr"] == plan.learning_rate


def test_no_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="There are 0 texts"):
        script.texts_of(tmp_path, [])


@pytest.mark.slow
def test_the_model_is_a_t5_that_searches_can_use_and_has_learnt_something(tmp_path: Path) -> None:
    plan = script.Plan(**{**SMALL, "steps": 150, "learning_rate": 0.03, "batch_size": 8})
    run = script.pretrain(plan, TEXTS, tmp_path, "made up")
    assert run.held_out_loss() < run.unigram_loss()
    backbone = Backbone.from_pretrained(str(tmp_path))
    assert backbone.family.is_text_to_text
    assert backbone.tokenizer is not None
    ids = backbone.tokenizer("the cat sees the tree .")["input_ids"]
    assert ids[-1] == 1
    assert 2 not in ids
    assert backbone.tokenizer.decode(ids, skip_special_tokens=True) == "the cat sees the tree ."
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"{len(TEXTS)} texts" in card
    assert "Limits" in card


def test_an_interrupted_run_ends_as_the_whole_one(tmp_path: Path) -> None:
    plan = script.Plan(**SMALL)
    whole = script.pretrain(plan, TEXTS, tmp_path / "whole", "made up")
    whole.tokenizer.save_pretrained(tmp_path / "part")
    part = script.Pretraining(plan, whole.tokenizer, TEXTS)
    for _ in range(3):
        part.step()
    part.save(tmp_path / "part" / "checkpoint.safetensors")
    again = script.pretrain(plan, TEXTS, tmp_path / "part", "made up")
    for (name, one), (_, other) in zip(whole.model.named_parameters(), again.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_the_tokenizer_of_a_run_is_kept(tmp_path: Path) -> None:
    plan = script.Plan(**{**SMALL, "steps": 1})
    script.pretrain(plan, TEXTS, tmp_path, "made up")
    before = (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    script.pretrain(plan, TEXTS, tmp_path, "made up")
    assert (tmp_path / "tokenizer.json").read_text(encoding="utf-8") == before


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path) -> None:
    plan = script.Plan(**SMALL)
    run = script.Pretraining(plan, script.tokenizer_of(TEXTS, plan.vocabulary), TEXTS)
    run.save(tmp_path / "checkpoint.safetensors")
    with pytest.raises(SystemExit, match="was made with"):
        script.pretrain(script.Plan(**{**SMALL, "seed": 5}), TEXTS, tmp_path, "made up")


def test_the_command_line_makes_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.txt"
    own.write_text("\n".join(TEXTS), encoding="utf-8")
    options = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
    script.main(["--text", str(own), "--out", str(tmp_path / "model"), *[o.replace("_", "-") for o in options]])
    assert "autopeft search --model" in capsys.readouterr().out
    assert (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("there", ["notes.txt", "model.safetensors", "a file"])
def test_what_stands_at_out_is_looked_at_before_training(tmp_path: Path, there: str) -> None:
    own, out = tmp_path / "own.txt", tmp_path / "out"
    own.write_text("\n".join(TEXTS), encoding="utf-8")
    if there == "a file":
        out.write_text("dear")
    else:
        out.mkdir()
        (out / there).write_text("dear")
        (out / "tokenizer.json").write_text("{}") if there.startswith("model") else None
    with pytest.raises(SystemExit, match="--out"):
        script.main(["--text", str(own), "--out", str(out)])
    assert (out if there == "a file" else out / there).read_text() == "dear"
