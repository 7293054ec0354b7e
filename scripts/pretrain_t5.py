"""Pretrain a very small T5 by span corruption, on text at hand, where no pretrained one can be had.

    python scripts/pretrain_t5.py --data FOLDER --out runs/t5-tiny

`--data` is a folder of GLUE and SuperGLUE files as `autopeft --data` reads them; the texts of the training parts are
used, without their labels. `--text` takes files with one text a line instead. A tokenizer (unigram, 8,000 pieces) is
trained on the same text. The objective is that of T5 (Raffel et al., JMLR 2020, section 3.1.4): 15 % of the tokens in
spans of 3 on average are replaced by sentinels and have to be told. The same command continues a run that was stopped.

What comes out knows something of English and nothing like a real T5: use it to see the whole encoder-decoder path at
work on weights that are not random, not to compare with published figures.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from autopeft.errors import SettingsError
from autopeft.network.dropout import quick_dropout
from autopeft.training.checkpoint import Checkpoint, read, write
from autopeft.writing import check_place

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
N_SENTINELS = 100
_IGNORED = -100
_FIELDS_WITHOUT_TEXT = {"idx", "label", "answers", "entities", "entity_spans"}
_HELD_OUT = 0.02

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """What decides the outcome: the same plan on the same text gives the same weights.

    Args:
        steps, batch_size: optimiser steps, and segments in each.
        length: tokens of a segment before corruption.
        learning_rate: peak of Adafactor's, relative to a parameter's root mean square; warm-up, then linear to 0.
        width, layers, heads, inner: ``d_model``, layers of encoder and decoder each, heads, width of the feed-forward.
        vocabulary: pieces of the tokenizer, sentinels not counted.
    """

    steps: int = 3000
    batch_size: int = 32
    length: int = 128
    learning_rate: float = 1e-2
    warmup: int = 200
    width: int = 256
    layers: int = 4
    heads: int = 4
    inner: int = 768
    vocabulary: int = 8000
    seed: int = 0


# -- text ------------------------------------------------------------------------------------------------------


def texts_of(data: Path | None, files: Sequence[Path]) -> list[str]:
    """Every different text, in the order of the files.

    Raises:
        SystemExit: there is none.
    """
    found: dict[str, None] = {}
    for path in sorted(data.glob("**/train*.jsonl*")) if data else []:
        for line in _lines(path):
            row: dict[str, Any] = json.loads(line)
            values = (value for name, value in row.items() if name not in _FIELDS_WITHOUT_TEXT)
            found.update(dict.fromkeys(value.strip() for value in values if isinstance(value, str)))
    for path in files:
        found.update(dict.fromkeys(line.strip() for line in _lines(path)))
    found.pop("", None)
    if len(found) < 2:
        sys.exit(f"There are {len(found)} texts under {data} and in {[str(path) for path in files]}; two are needed.")
    return list(found)


def _lines(path: Path) -> list[str]:
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with opened as file:
        return [line.removesuffix("\n") for line in file]


def tokenizer_of(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A unigram tokenizer as T5's: padding 0, end 1, unknown 2, the end token after every text, sentinels last."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    special = [PAD, END, UNKNOWN]
    made.train_from_iterator(
        texts, trainers.UnigramTrainer(vocab_size=vocabulary, special_tokens=special, unk_token=UNKNOWN)
    )
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, 1)]
    )
    sentinels = [f"<extra_id_{number}>" for number in range(N_SENTINELS)]
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=sentinels,
        model_max_length=512,
    )


def segments(documents: Sequence[Tokens], length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The documents, end tokens included, in random order in one row, cut to ``(n, length)``; the rest is left out.

    A row that would be shorter than one segment is repeated until it fills one.
    """
    order = rng.permutation(len(documents))
    row = np.concatenate([documents[index] for index in order])
    row = np.tile(row, max(1, math.ceil(length / len(row))))
    return row[: len(row) // length * length].reshape(-1, length)


# -- span corruption -------------------------------------------------------------------------------------------


def noise(length: int, rng: np.random.Generator, density: float = 0.15, mean_span: float = 3.0) -> NDArray[np.bool_]:
    """Which tokens of a segment are hidden, ``(length,)``: spans never touch and the first token is kept."""
    n_noise = min(max(round(length * density), 1), length - 1)
    n_spans = min(max(round(n_noise / mean_span), 1), length - n_noise)
    hidden, kept = _parts(n_noise, n_spans, rng), _parts(length - n_noise, n_spans, rng)
    return np.repeat(np.tile([False, True], n_spans), np.stack([kept, hidden], 1).ravel())


def _parts(total: int, n: int, rng: np.random.Generator) -> Tokens:
    """`n` whole numbers of at least 1 that sum to `total`, every such list equally likely."""
    cuts = np.sort(rng.choice(total - 1, n - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)


def corrupt(tokens: Tokens, hidden: NDArray[np.bool_], first_sentinel: int, end: int) -> tuple[Tokens, Tokens]:
    """Source and target: in the source a sentinel stands for each hidden span, in the target for each kept one."""
    return (
        _with_sentinels(tokens, hidden, first_sentinel, end),
        _with_sentinels(tokens, ~hidden, first_sentinel, end),
    )


def _with_sentinels(tokens: Tokens, replaced: NDArray[np.bool_], first_sentinel: int, end: int) -> Tokens:
    starts = replaced & ~np.concatenate([[False], replaced[:-1]])
    marked = np.where(starts, first_sentinel + np.cumsum(starts) - 1, tokens)
    return np.append(marked[starts | ~replaced], end)


class Corpus:
    """Corrupted batches: which one a step gets depends on the seed and the step alone."""

    def __init__(self, documents: Sequence[Tokens], plan: Plan, first_sentinel: int, end: int) -> None:
        self._documents, self._plan, self._sentinel, self._end = documents, plan, first_sentinel, end
        self._epoch, self._segments = -1, np.zeros((0, 0), np.int64)
        self._per_epoch = max(1, sum(len(item) for item in documents) // plan.length // plan.batch_size)

    def batch(self, step: int) -> dict[str, Tensor]:
        """What the model is called with at `step`."""
        plan, (epoch, position) = self._plan, divmod(step, self._per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([plan.seed, 0, epoch])
            self._epoch, self._segments = epoch, segments(self._documents, plan.length, rng)
        rows = self._segments[position * plan.batch_size : (position + 1) * plan.batch_size]
        rng = np.random.default_rng([plan.seed, 1, step])
        pairs = [corrupt(row, noise(plan.length, rng), self._sentinel, self._end) for row in rows]
        source = _padded([source for source, _ in pairs], 0)
        labels = _padded([target for _, target in pairs], _IGNORED)
        return {"input_ids": source, "attention_mask": (source != 0).long(), "labels": labels}


def _padded(rows: Sequence[Tokens], fill: int) -> Tensor:
    out = np.full((len(rows), max(map(len, rows))), fill)
    for place, row in zip(out, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(out)


# -- training --------------------------------------------------------------------------------------------------


class Pretraining:
    """A model, its optimiser and how far they are."""

    def __init__(self, plan: Plan, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> None:
        documents = [np.array(ids) for ids in tokenizer(list(texts))["input_ids"]]
        n_held = max(1, round(_HELD_OUT * len(documents)))
        order = np.random.default_rng([plan.seed, 2]).permutation(len(documents))
        held, used = ([documents[index] for index in part] for part in (order[:n_held], order[n_held:]))
        first = int(tokenizer.convert_tokens_to_ids("<extra_id_0>"))
        self.plan, self.tokenizer, self.done = plan, tokenizer, 0
        self.n_tokens = sum(len(document) for document in used)
        self.corpus = Corpus(used, plan, first, int(tokenizer.eos_token_id))
        self.held = Corpus(held, plan, first, int(tokenizer.eos_token_id))
        torch.manual_seed(plan.seed)
        config = _config(plan, len(tokenizer))
        self.model = T5ForConditionalGeneration._from_config(config, attn_implementation="eager")
        self.optimiser = torch.optim.Adafactor(self.model.parameters(), lr=plan.learning_rate)

    def step(self) -> float:
        """One optimiser step; the loss before it."""
        plan = self.plan
        warm, left = (self.done + 1) / max(1, plan.warmup), (plan.steps - self.done) / plan.steps
        self.optimiser.param_groups[0]["lr"] = plan.learning_rate * min(warm, left)
        self.model.train()
        with quick_dropout(self.model, 0.0):  # T5 1.1 was pretrained without dropout, too
            loss = self._loss(self.corpus.batch(self.done))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()  # type: ignore[no-untyped-call]
        self.optimiser.zero_grad(set_to_none=True)
        self.done += 1
        found = float(loss.detach())
        if not math.isfinite(found):
            sys.exit(f"The loss is {found} at step {self.done}; a smaller --learning-rate may help.")
        return found

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            loss: Tensor = self.model(**batch).loss
        return loss

    @torch.no_grad()
    def held_out_loss(self, n_batches: int = 10) -> float:
        """Mean cross-entropy a target token, in nats, on texts that are not trained on."""
        self.model.eval()
        return float(np.mean([float(self._loss(self.held.batch(step))) for step in range(n_batches)]))

    def unigram_loss(self, n_batches: int = 10) -> float:
        """The same of a model that knows how often each token is a target, and nothing else."""
        counts = np.ones(len(self.tokenizer))
        for step in range(10 * n_batches):
            np.add.at(counts, _targets(self.corpus.batch(step)), 1)
        logs = np.log(counts / counts.sum())
        return float(-np.mean(np.concatenate([logs[_targets(self.held.batch(step))] for step in range(n_batches)])))

    # -- on disk -----------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Everything needed to go on from here."""
        tensors = {f"model.{name}": value for name, value in self.model.named_parameters()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items() if value is not None}
        facts = {"plan": asdict(self.plan), "done": self.done, "n_tokens": self.n_tokens}
        write(path, Checkpoint({**tensors, "random": torch.get_rng_state()}, facts))

    def resume(self, path: Path) -> None:
        """Go on from what `save` wrote, if there is a file.

        Raises:
            SystemExit: it belongs to another plan or other text.
        """
        found = read(path)
        if found is None:
            return
        if found.facts["plan"] != asdict(self.plan) or found.facts["n_tokens"] != self.n_tokens:
            sys.exit(f"{path} was made with {found.facts['plan']} on {found.facts['n_tokens']} tokens. Move it away.")
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in found.tensors.items():
            if name.startswith("optimiser."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = value
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(found.tensors[f"model.{name}"])
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        torch.set_rng_state(found.tensors["random"])
        self.done = int(found.facts["done"])


def _targets(batch: dict[str, Tensor]) -> Tokens:
    labels = batch["labels"].numpy()
    found: Tokens = labels[labels != _IGNORED]
    return found


def _config(plan: Plan, vocabulary: int) -> Any:
    return T5Config(
        vocab_size=math.ceil(vocabulary / 64) * 64,
        d_model=plan.width,
        d_kv=plan.width // plan.heads,
        d_ff=plan.inner,
        num_layers=plan.layers,
        num_heads=plan.heads,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )


def card(run: Pretraining, n_texts: int, source: str) -> str:
    """What the model is and is not."""
    plan = run.plan
    seen = plan.steps * plan.batch_size * plan.length
    return f"""# A very small T5 for tests of the encoder-decoder path

{run.model.num_parameters():,} parameters: width {plan.width}, {plan.layers} layers each in encoder and decoder, \
{plan.heads} heads, feed-forward {plan.inner}, {len(run.tokenizer):,} tokens.

Pretrained by span corruption (15 %, spans of 3) on {n_texts:,} texts ({run.n_tokens:,} tokens) {source}, labels not \
used: {plan.steps:,} steps of {plan.batch_size} segments of {plan.length} tokens, {seen:,} tokens in all.

Loss on texts held out, in nats a target token: {run.held_out_loss():.3f}. Token frequencies alone give \
{run.unigram_loss():.3f}.

Limits: thousands of times less text than T5, no knowledge of tasks. Its figures say whether a method works at all, \
and nothing about T5-large.

Made by `scripts/pretrain_t5.py` with {asdict(plan)}.
"""


def check_out(out: Path) -> None:
    """Make sure, before any training, that `out` is new, empty, or a run of this script that goes on.

    Raises:
        SystemExit: something else stands there, or nothing can be written there.
    """
    try:
        check_place("--out", out, is_folder=True)
    except SettingsError as error:
        raise SystemExit(str(error)) from error
    there = {item.name for item in out.iterdir()} if out.exists() else set()
    if there and not {"checkpoint.safetensors", "tokenizer.json"} & there:
        raise SystemExit(f"--out takes a new or empty folder, or one of an earlier run, but {str(out)!r} is neither.")
    if "model.safetensors" in there and "checkpoint.safetensors" not in there:
        raise SystemExit(f"--out {str(out)!r} holds a model that this script did not make: give a new folder.")


def pretrain(plan: Plan, texts: Sequence[str], out: Path, source: str, save_every: int = 250) -> Pretraining:
    """Pretrain to the end of the plan, or continue; `out` gets weights, tokenizer and model card."""
    console, checkpoint = Console(stderr=True), out / "checkpoint.safetensors"
    if not (out / "tokenizer.json").exists():  # its training is not repeatable to the last piece
        tokenizer_of(texts, plan.vocabulary).save_pretrained(out)
    run = Pretraining(plan, PreTrainedTokenizerFast.from_pretrained(out), texts)
    run.resume(checkpoint)
    size = f"{run.model.num_parameters():,} parameters, {len(texts):,} texts, {run.n_tokens:,} tokens"
    console.print(f"{size}; from step {run.done:,} of {plan.steps:,}")
    for loss in _stepping(run, console):
        if run.done % save_every == 0 or run.done == plan.steps:
            run.save(checkpoint)
            console.print(f"step {run.done:,}: loss {loss:.3f}, on held-out texts {run.held_out_loss():.3f}")
    run.model.eval().save_pretrained(out)
    (out / "README.md").write_text(card(run, len(texts), source), encoding="utf-8")
    return run


def _stepping(run: Pretraining, console: Console) -> Iterator[float]:
    columns = (TextColumn("pretraining"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=run.plan.steps, completed=run.done)
        while run.done < run.plan.steps:
            yield run.step()
            progress.update(task, completed=run.done)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: every entry of `Plan` is an option."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of GLUE and SuperGLUE files")
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="files with one text a line")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    for name, value in asdict(Plan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"{value} by default")
    found = vars(parser.parse_args(arguments))
    data, files, out = (found.pop(name) for name in ("data", "text", "out"))
    check_out(out)
    texts = texts_of(data, files)
    source = "of the training parts of GLUE and SuperGLUE" if data else "of the user's own files"
    pretrain(Plan(**found), texts, out, source)
    Console().print(f"The model is in {out}: autopeft search --model {out} --task sst2", soft_wrap=True)


if __name__ == "__main__":
    main()
