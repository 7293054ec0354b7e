"""Members of a kind are found by file name, and a user's own by a dotted path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autopeft import methods
from autopeft.errors import SettingsError, UnknownNameError
from autopeft.kinds import lookup, members


@pytest.fixture
def kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """An empty package on the path, with a name of its own."""
    name = f"kind_{abs(hash(request.node.name))}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    (folder / "zebra.py").write_text("MEMBERS = {'z': 1}\n")
    (folder / "ant.py").write_text("MEMBERS = {'a': 2, 'b': 3}\nOTHER = 4\n")
    return name


def test_every_module_is_read_in_the_order_of_the_files(kind: str) -> None:
    assert dict(members(kind)) == {"a": 2, "b": 3, "z": 1}
    assert list(members(kind)) == ["a", "b", "z"]
    assert lookup("thing", "z", kind) == 1


def test_a_dotted_path_names_what_is_elsewhere(kind: str) -> None:
    assert lookup("thing", f"{kind}.ant:OTHER", kind) == 4


def test_what_lies_in_the_folder_of_the_call_is_found_last(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "json.py").write_text("MIXER = 'the wrong one'\n")
    (here / "my_lab_of_kinds.py").write_text("import json\nMIXER = json.dumps('mine')\n")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert lookup("thing", "z", kind) == 1
    assert str(here) not in sys.path  # nobody has named anything there
    assert lookup("thing", "my_lab_of_kinds:MIXER", kind) == '"mine"'
    assert lookup("thing", "my_lab_of_kinds:MIXER", kind) == '"mine"'
    assert sys.path[-1] == str(here)
    assert sys.path.count(str(here)) == 1


@pytest.mark.parametrize("path", ["no_such_module:X", "json:no_such_attribute"])
def test_a_dotted_path_that_leads_nowhere_is_told(kind: str, path: str) -> None:
    with pytest.raises(SettingsError, match=f"The thing {path!r} cannot be imported: .*no_such"):
        lookup("thing", path, kind)


@pytest.mark.parametrize("path", [":x", ".a:b", "a..b:c", "a b:c", "x\0:y", "1:2"])
def test_what_is_no_dotted_path_is_told(kind: str, path: str) -> None:
    with pytest.raises(SettingsError, match="is no name, and no dotted path such as"):
        lookup("thing", path, kind)


def test_an_unknown_name_is_told_the_nearest(kind: str) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown thing 'zz'\. Did you mean 'z'\? Known: a, b, z\.") as caught:
        lookup("thing", "zz", kind)
    assert caught.value.name == "zz"
    assert caught.value.known == ("a", "b", "z")


def test_a_name_that_two_files_claim_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / kind / "bee.py").write_text("MEMBERS = {'b': 5}\n")
    with pytest.raises(SettingsError, match=r"export 'b'; the second is bee\.py"):
        members(kind)


def test_methods_are_such_a_kind() -> None:
    assert methods.names() == tuple(members("autopeft.methods"))
    with pytest.raises(UnknownNameError, match="Did you mean 'serial'"):
        methods.lookup("serail")
    with pytest.raises(SettingsError, match="does not declare"):  # found by its path, and no method
        methods.lookup("autopeft.methods.lora:MEMBERS")
