"""GLUE (Wang et al. 2018, arXiv 1804.07461), in the field names and label numbers of ``nyu-mll/glue``.

Metrics are those of AutoPEFT (arXiv 2301.12132, section 4) first: accuracy for RTE, MRPC, SST-2, QNLI, QQP and MNLI
(matched), Matthews for CoLA, Spearman for STS-B. Under the protocol "bipeft" F1 (MRPC, QQP) and Pearson (STS-B) come
first, as BIPEFT reports them. The official test splits have no labels.
"""

from __future__ import annotations

from collections.abc import Mapping

from autopeft.tasks._task import Hub, Task

_PROTOCOLS = ("holdout", "autopeft", "autopeft-resplit", "bipeft")
_ENTAILMENT = ("entailment", "not_entailment")


def _task(name: str, inputs: tuple[str, ...], label_names: tuple[str, ...], **more: object) -> Task:
    facts: dict[str, object] = {"kind": "classification", "protocols": _PROTOCOLS, "hub": Hub("nyu-mll/glue", name)}
    return Task(name=f"glue/{name}", inputs=inputs, label_names=label_names, **(facts | more))  # type: ignore[arg-type]


_TASKS = (
    _task("rte", ("sentence1", "sentence2"), _ENTAILMENT, about="Textual entailment, 2,490 pairs."),
    _task(
        "mrpc",
        ("sentence1", "sentence2"),
        ("not_equivalent", "equivalent"),
        metrics=("accuracy", "f1"),
        objectives=(("bipeft", "f1"),),
        about="Microsoft paraphrases, 3,668 pairs.",
    ),
    _task(
        "stsb",
        ("sentence1", "sentence2"),
        (),
        kind="regression",
        metrics=("spearman", "pearson", "mae", "rmse"),
        objectives=(("bipeft", "pearson"),),
        about="Semantic similarity from 0 to 5, 5,749 pairs.",
    ),
    _task(
        "cola",
        ("sentence",),
        ("unacceptable", "acceptable"),
        metrics=("matthews", "accuracy"),
        about="Linguistic acceptability, 8,551 sentences.",
    ),
    _task("sst2", ("sentence",), ("negative", "positive"), is_large=True, about="Sentiment, 67,349 phrases."),
    _task("qnli", ("question", "sentence"), _ENTAILMENT, is_large=True, about="Does it answer? 104,743 pairs."),
    _task(
        "qqp",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        metrics=("accuracy", "f1"),
        objectives=(("bipeft", "f1"),),
        is_large=True,
        about="Quora question pairs, 363,846 pairs.",
    ),
    _task(
        "mnli",
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        # The papers report the matched genres, those that the training part has, too.
        parts=(("train", "train"), ("test", "validation_matched")),
        is_large=True,
        about="Entailment over genres, 392,702 pairs; scored on the matched genres.",
    ),
)

MEMBERS: Mapping[str, Task] = {task.name: task for task in _TASKS}
