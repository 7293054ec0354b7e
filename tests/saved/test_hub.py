"""Putting an export on the Hub: what is refused before any work, and that the exported folder alone goes there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from test_merge import LLAMA, saved

import small_case
from autopeft.errors import SettingsError, WriteError
from autopeft.saved.hub import check_push, push


class Hub:
    """In place of `huggingface_hub.HfApi`: what it was asked."""

    asked: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012  the class is made anew for each test
    failure: Exception | None = None

    def create_repo(self, repository: str, **options: Any) -> None:
        self.asked.append((repository, options))
        if self.failure is not None:
            raise self.failure

    def upload_folder(self, **options: Any) -> str:
        self.asked.append(("upload", options))
        return f"https://hub.test/{options['repo_id']}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    class Fresh(Hub):
        asked: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012
        failure = None

    monkeypatch.setattr(huggingface_hub, "HfApi", Fresh)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return Fresh


@pytest.mark.slow
def test_the_exported_folder_and_nothing_else_is_put_there(hub: type[Hub], tmp_path: Path) -> None:
    folder = saved("llama", LLAMA[:1], tmp_path)
    called = small_case.call("export", folder, "--to", tmp_path / "peft", "--push", "me/orders")
    assert called.code == 0, called.err
    assert "Pushed: https://hub.test/me/orders" in called.out
    (name, made), (_, sent) = hub.asked
    assert (name, made) == ("me/orders", {"private": True, "exist_ok": True})
    assert (sent["repo_id"], Path(sent["folder_path"])) == ("me/orders", tmp_path / "peft")
    files = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert sent["allow_patterns"] == files == sorted(path.name for path in (tmp_path / "peft").iterdir())
    card = (tmp_path / "peft" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft\nbase_model: ")
    assert "PeftModel.from_pretrained(base" in card
    push(tmp_path / "peft", "me/orders", is_public=True)
    assert hub.asked[2][1]["private"] is False


def test_what_cannot_be_put_there_is_told_before_any_work(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved("llama", LLAMA[:1], tmp_path)
    with pytest.raises(SettingsError, match="is called OWNER/NAME, but got 'orders'"):
        check_push("orders")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    called = small_case.call("export", folder, "--to", tmp_path / "peft", "--push", "me/orders")
    assert (called.code, "without a token" in called.err) == (2, True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    called = small_case.call("export", folder, "--to", tmp_path / "peft", "--push", "me/orders")
    assert (called.code, "while HF_HUB_OFFLINE is set" in called.err) == (2, True)
    assert not (tmp_path / "peft").exists()
    assert hub.asked == []


def test_a_hub_that_cannot_be_reached_leaves_the_folder(hub: type[Hub], tmp_path: Path) -> None:
    hub.failure = ConnectionError("no route to host")
    folder = saved("llama", LLAMA[:1], tmp_path)
    called = small_case.call("export", folder, "--to", tmp_path / "peft", "--push", "me/orders")
    assert (called.code, "no route to host The folder" in called.err) == (1, True)
    assert (tmp_path / "peft" / "adapter_model.safetensors").exists()
    with pytest.raises(WriteError, match="could not be written"):
        push(tmp_path / "peft", "me/orders")
