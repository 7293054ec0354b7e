"""What a user meets: the public names, and pages, examples and settings that name only what there is."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import autopeft
import lattice
import small_case
from autopeft import errors, experiments, samplers, settings
from autopeft.architecture import Architecture
from autopeft.cli.app import add_commands
from autopeft.kinds import lookup
from small_case import Case

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG", "benchmarks/README")]
PAGES += sorted(path for folder in ("docs", "examples", "experiments") for path in (ROOT / folder).rglob("*.md"))
YAML = sorted(path for folder in ("examples", "experiments") for path in (ROOT / folder).rglob("*.yaml"))
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
COMMANDS: Any = get_command(add_commands()).commands  # type: ignore[attr-defined]

# Taking a name away breaks somebody's program, so this list is changed by hand.
PUBLIC = """
Architecture AutopeftError Axis Backbone Candidate Changes Configuration Counts Evaluator InputError Measurement
ParameterBudget ParetoFront Placement Recipe SearchSpace Session Settings Study Task Trial baseline load predictions
retrain search to_peft
""".split()


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of `languages`."""
    found = re.findall(r"```(\w*)\n(.*?)```", path.read_text(), re.DOTALL)
    return [body for language, body in found if language in languages]


# -- names -----------------------------------------------------------------------------------------------------


def test_the_public_names_are_these() -> None:
    assert autopeft.__all__ == PUBLIC == sorted(PUBLIC)
    assert set(dir(autopeft)) == {*PUBLIC, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'Serach'"):
        autopeft.Serach  # noqa: B018


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    found = getattr(autopeft, name)
    assert found.__name__ == name
    assert found.__module__.startswith("autopeft.")
    assert len(found.__doc__.split()) >= 4
    assert not found.__doc__.startswith(f"{name}(")  # what a dataclass writes of itself


# -- Python ----------------------------------------------------------------------------------------------------


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Pairs of module and name that are taken from this package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "autopeft":
            yield from ((str(node.module), item.name) for item in node.names)
        is_attribute = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if is_attribute and node.value.id == "autopeft":  # type: ignore[attr-defined]
            yield "autopeft", node.attr  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", [*PAGES, *SCRIPTS], ids=short)
def test_python_is_readable_and_names_what_there_is(path: Path) -> None:
    sources = [path.read_text()] if path.suffix == ".py" else blocks(path, "python")
    for source in sources:
        for module, name in imported(ast.parse(source)):
            found = __import__(module, fromlist=[name])
            assert hasattr(found, name), f"{module}.{name}"


@pytest.mark.parametrize("path", SCRIPTS, ids=short)
def test_examples_can_be_imported_without_beginning_to_work(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(path.parent))
    assert __import__(path.stem).main


def test_the_first_example_runs_to_its_end(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a tiny model, whose settings stand in for those of the example."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    small = case.settings(trials=4, initial=3, learning_rates=[1e-3])
    monkeypatch.setattr(autopeft, "Settings", lambda **_: small)
    __import__("search_reviews").main(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert "on validation with" in lines[0]
    assert "'n': 2" in lines[1]
    assert "stored parameters" in lines[2]
    assert [line.split(" ", 2)[2] for line in lines[3:]] == ["a wonderful film", "two hours that I want back"]


def test_the_method_and_the_sampler_of_the_examples_are_found_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    method = lookup("method", "custom_method:SCALE", "autopeft.methods")
    assert method.name == "custom_method:SCALE"
    assert samplers.lookup("custom_sampler:CHEAPEST").name == "cheapest"
    assert samplers.lookup("custom_sampler:build").build.__name__ == "build"  # a bare function will do


def test_the_method_of_the_examples_is_trained_and_its_name_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    import tiny
    from autopeft.network.attach import attach
    from autopeft.network.build import count

    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    backbone = tiny.backbone("bert")
    chosen = Architecture((autopeft.Placement("encoder.1.ffn", "custom_method:SCALE", 1),))
    assert count(backbone, chosen).nominal == backbone.hidden_size  # one gain a unit of the output
    ids = torch.arange(8).view(1, 8)
    with torch.no_grad():
        plain = backbone.model(ids).last_hidden_state
        attached = attach(backbone, Architecture.from_dict(chosen.as_dict()))
        assert torch.equal(backbone.model(ids).last_hidden_state, plain)  # gains start at 0
        attached.parameters()[0].fill_(0.5)
        assert not torch.allclose(backbone.model(ids).last_hidden_state, plain)
        attached.masks[("encoder.1.ffn", "custom_method:SCALE")] = torch.zeros(1)
        assert torch.equal(backbone.model(ids).last_hidden_state, plain)
        attached.detach()


def test_the_sampler_of_the_examples_proposes_new_and_feasible_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    import tiny
    from autopeft.session import build_space

    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    backbone = tiny.backbone("bert")
    built = build_space(backbone, settings.SpaceSettings(budget="5%"))
    sampler = samplers.build("custom_sampler:build", built, 3, {"handful": 4})
    found = sampler.ask((), 2)
    assert sampler.ask((), 2) == found
    assert len({built.identity(configuration) for configuration in found}) == 2
    assert built.cost(found[0]) <= built.cost(found[1]) <= 5 * backbone.n_parameters // 100


def test_a_sampler_with_options_of_its_own_is_one_file_and_a_dotted_path(
    case: small_case.Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its options are checked before any work, stored with the study, and compared when that goes on."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    own: dict[str, Any] = {"sampler": "custom_sampler:CHEAPEST", "initial": 1, "trials": 2}
    asked = case.write(tmp_path / "asked.yaml", **own, sampler_options={"handful": 3})
    done = small_case.call("search", asked, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert [trial.origin for trial in small_case.trials(tmp_path / "run")] == ["initial", "cheapest"]
    again = case.write(tmp_path / "other.yaml", **own, sampler_options={"handful": 5})
    assert small_case.call("search", again, "--out", tmp_path / "run").code == 2
    wrong = case.write(tmp_path / "wrong.yaml", **own, sampler_options={"handfull": 3})
    refused = small_case.call("search", wrong, "--out", tmp_path / "none")
    assert (refused.code, "did you mean 'handful'?" in refused.err) == (2, True), refused.err
    assert not (tmp_path / "none").exists()
    for options, message in (
        ({"handful": 0}, "handful must be a whole number of at least 1, but got 0"),
        ({"is_dear": "yes"}, "is_dear must be true or false, but got 'yes'"),
    ):
        with pytest.raises(errors.SettingsError, match=message):
            samplers.build("custom_sampler:CHEAPEST", lattice.tiny_space(), 0, options)


# -- settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", YAML, ids=short)
def test_yaml_files_are_settings_or_experiments(path: Path) -> None:
    if "kind" in settings.read_yaml(path):
        assert experiments.read(path).cells()
        return
    found = settings.load(path)
    if found.files is not None:
        for part in (found.files.train, found.files.validation, found.files.test):
            assert part is None or (path.parent / part).is_file()


@pytest.mark.parametrize("path", PAGES, ids=short)
def test_yaml_in_pages_is_settings_or_a_part_of_them(path: Path) -> None:
    import yaml

    for block in blocks(path, "yaml"):
        data = yaml.safe_load(block)
        if "kind" not in data and "experiment" not in data:
            settings.from_dict({"task": "mrpc"} | data if "files" not in data else data)


def test_the_explicit_architecture_fits_minilm() -> None:
    from transformers import BertConfig

    from autopeft.backbones import Backbone
    from autopeft.network.build import count

    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    found = Architecture.load(ROOT / "examples" / "mixed_layers.json")
    d, ffn = 384, 384  # widths; BitFit counts the output bias, LNFit the norm's weight
    lora, prefix = 2 * 4 * 2 * d, 3 * 2 * d
    adapters = sum(2 * d * width for width in (8, 24, 16, 8, 8))
    assert count(Backbone.from_config(config, device="meta"), found).nominal == lora + prefix + ffn + d + adapters


def test_the_own_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from autopeft.tasks._files import from_files

    monkeypatch.chdir(ROOT / "examples")
    wanted = settings.load("own_file.yaml").files
    assert wanted is not None
    task, loader = from_files(Path(wanted.train), text=wanted.text, label=wanted.label)
    assert (task.kind, task.label_names) == ("classification", ("account", "billing", "technical"))
    splits = loader()
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [48, 6, 6]


# -- command lines ---------------------------------------------------------------------------------------------


def command_lines(path: Path) -> Iterator[list[str]]:
    """The words after ``autopeft`` in shell blocks, code spans that begin with it, and comments of YAML files."""
    text = path.read_text()
    if path.suffix == ".md":
        shell = "\n".join(blocks(path, "sh", "shell", "bash")).replace("\\\n", " ")
        spans = re.findall(r"`(autopeft [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    else:
        shell = "\n".join(re.sub(r"^\s*#+", "", line) for line in text.splitlines()).replace("\\\n", " ")
        spans = []
    lines = re.findall(r"(?:^|[\s/])autopeft ((?:search|\S+) .*)$", shell, re.MULTILINE) if path.suffix == ".md" else []
    lines += re.findall(r"^\s*(?:\S+=\S+ )?autopeft (.*)$", shell, re.MULTILINE) if path.suffix != ".md" else []
    for line in [*lines, *(span.removeprefix("autopeft ") for span in spans)]:
        yield shlex.split(line.replace("'", "") if line.count("'") % 2 else line, comments=True)


@pytest.mark.parametrize("path", [*PAGES, *YAML, *SCRIPTS], ids=short)
def test_command_lines_use_what_there_is(path: Path) -> None:
    for words in command_lines(path):
        while words and words[0] in ("--verbose", "-v"):
            words = words[1:]
        assert words, f"{short(path)}: a command line without a command"
        if words[0] in ("--version", "COMMAND"):
            continue
        assert words[0] in COMMANDS, f"{short(path)}: autopeft {' '.join(words)}"
        known = {name for parameter in COMMANDS[words[0]].params for name in parameter.opts}
        used = {word.partition("=")[0] for word in words[1:] if word.startswith("-")}
        assert used <= {*known, "--help", "-h"}, f"{short(path)}: autopeft {' '.join(words)}"


def test_command_lines_are_found() -> None:
    assert ["report", "runs/quickstart"] in list(command_lines(ROOT / "docs" / "quickstart.md"))
    assert ["search", "own_file.yaml", "--out", "runs/tickets"] in list(
        command_lines(ROOT / "examples" / "own_file.yaml")
    )
    assert sum(1 for path in PAGES for _ in command_lines(path)) > 40


# -- links -----------------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=short)
def test_relative_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{short(path)} links to {target}"
        assert not anchor or anchor in anchors(found), f"{short(path)} links to {target}"
