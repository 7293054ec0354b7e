"""Whether a study's data and weights are still those that it was measured on.

Settings name files and folders, whose contents may change; a front of both would compare nothing, and an architecture
retrained on another cut of the data may be tested on what its search was fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft import settings as settings_module
from autopeft.backbones._identity import differences
from autopeft.errors import StudyMismatchError
from autopeft.session.parts import load_data, resolved

if TYPE_CHECKING:
    from autopeft.backbones import Backbone
    from autopeft.session.session import Session
    from autopeft.settings import Settings
    from autopeft.study.reading import Readable
    from autopeft.tasks._protocols import Splits

DATA = ("task", "data", "files", "protocol", "data_seed", "train_limit", "validation_limit", "label_words")
"""The settings that the parts of the data depend on."""

MODEL = "model"
"""The fact that keeps what the trials were trained on: see `autopeft.backbones.Backbone.identity`."""

_SEEN = ("train", "validation")
"""The parts of the data that a search sees."""


def sizes_and_digests(splits: Splits) -> dict[str, dict[str, Any]]:
    """How many examples each part has that a search sees, and their digest: of `Splits.describe` what is compared."""
    parts = {"train": splits.train, "validation": splits.validation}
    return {name: {"size": len(examples), "digest": examples.digest()} for name, examples in parts.items()}


def other_data(study: Readable, here: Mapping[str, Any]) -> list[str]:
    """What of the data is not what the trials of `study` were measured on; nothing where it does not say.

    Args:
        here: as `sizes_and_digests` or `Splits.describe` tells it.
    """
    stored = study.fact("data") or {}
    return [
        f"the {part} part had {stored[part]['size']:,} examples (digest {stored[part]['digest']}), but has "
        f"{here[part]['size']:,} ({here[part]['digest']})"
        for part in _SEEN
        if part in stored and stored[part]["digest"] != here[part]["digest"]
    ]


def other_model(study: Readable, backbone: Backbone, name: str) -> list[str]:
    """What of the model is not what the trials of `study` were trained on; nothing where it does not say."""
    if (model := study.fact(MODEL)) is not None:
        return [f"of the model {name} {item}" for item in differences(model, backbone.identity())]
    weights = study.fact("weights")  # all that a study of an earlier version knows
    if weights is None or weights == (here := backbone.digest()):
        return []
    return [f"the weights of {name} had the digest {weights}, but have {here}"]


def check_retraining(session: Session, study: Readable, folder: str | Path) -> None:
    """Refuse to train for a study whose files or model have changed under the names that its settings give.

    Another task, other files or another model that the settings of `session` name in their place are no mistake. What
    a study of an earlier version does not know is not compared.

    Args:
        session: of the settings of the retraining.
        folder: of the study, where its own settings are.

    Raises:
        StudyMismatchError: data or weights differ.
    """
    asked = session.settings
    path = Path(folder) / "settings.yaml"
    begun = resolved(settings_module.load(path, trust_remote_code=asked.trust_remote_code))
    wrong = []
    if _place(asked) == _place(begun) and study.fact("data") is not None:
        wrong += other_data(study, sizes_and_digests(_splits_of(begun, session)))
    if (asked.model, asked.quantize) == (begun.model, begun.quantize):
        wrong += other_model(study, session.backbone, asked.model)
    if wrong:
        raise StudyMismatchError(
            f"The study was measured on something else: {'; '.join(wrong)}. Put back what it was measured on, or give "
            "settings of your own instead of the study (autopeft train SETTINGS.yaml --architecture FILE)."
        )


def _place(settings: Settings) -> Any:
    """Where the examples come from."""
    return settings.task, settings.data, None if settings.files is None else settings.files.parts()


def _splits_of(begun: Settings, session: Session) -> Splits:
    """The data as the search saw them, which a retraining may cut otherwise or take more of."""
    if all(getattr(begun, name) == getattr(session.settings, name) for name in DATA):
        return session.evaluator.splits
    return load_data(begun, is_begun=True)[1]
