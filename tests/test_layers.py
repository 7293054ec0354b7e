"""The house rules that a syntax tree can show: who may import whom, how long things are, what is global."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from autopeft.tasks import _answers

PACKAGE = Path(__file__).parent.parent / "src" / "autopeft"

LATTICE = ("spaces/build", "spaces/choices", "spaces/count", "spaces/decoding", "spaces/lattice")

# A module imports only from its own row and the rows above it. A folder stands for its files.
ROWS: tuple[tuple[str, ...], ...] = (
    (
        "errors",
        "yaml_files",
        "markup",
        "masking",
        "reading",
        "recognising",
        "writing",
        "interruption",
        "collecting",
        "caches",
        "sizes",
    ),
    (
        "kinds",
        "rules",
        "architecture",
        "candidate",
        "fidelity",
        "objective",
        "objectives",
        "paired",
        *LATTICE,
        "trial",
        "rungs",
    ),
    # Search on stored trials, without any model.
    ("study",),
    ("samplers", "promotions", "searches/_candidates"),
    # What is trained.
    ("network", "backbones", "methods", "spaces"),
    ("tasks",),
    ("benchmark",),
    ("training", "saved"),
    # Strategies that train; they may use the rows above.
    ("searches", "finals"),
    ("pictures", "reports"),
    ("settings", "came_later", "workers", "slurm", "session", "tracking"),
    ("experiments",),
    ("testing",),
    ("cli",),
    ("__init__", "__main__"),
)

# Rows of the study and of the search below it never see a model or a data set.
WITHOUT_A_MODEL = (*ROWS[1], *ROWS[2], *ROWS[3])
TRAINING = {name for row in ROWS[4:7] for name in row}
HEAVY = {"transformers", "datasets", "peft", "accelerate"}

FILES = sorted(PACKAGE.rglob("*.py"))


def named(parts: Sequence[str]) -> str:
    """The name in the table: a file's stem or the folder it is in, unless the table names a file of that folder."""
    two = "/".join(parts[:2])
    return two if any(two in row for row in ROWS) else parts[0]


def place(path: Path) -> str:
    """The name of a file in the table."""
    return named(path.relative_to(PACKAGE).with_suffix("").parts)


def shown(path: Path) -> str:
    """How a message names a file."""
    return path.relative_to(PACKAGE).as_posix()


# Every rule looks at every file, and to parse the whole package takes seconds.
@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file."""
    return tuple(ast.walk(tree(path)))


@cache
def imports(path: Path) -> frozenset[tuple[str, str]]:
    """Every import, those inside functions and under TYPE_CHECKING too: the package and the first name below it."""
    return frozenset(found_imports(path))


def found_imports(path: Path) -> Iterator[tuple[str, str]]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            # `from autopeft.spaces import papers` names a module in its second half.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            yield package, named(rest.split("."))


def row_of(name: str) -> int:
    rows = [number for number, row in enumerate(ROWS) if name in row]
    assert len(rows) == 1, (
        f"The module {name!r} is on {len(rows)} rows of the table in {Path(__file__).name}; put it on exactly one, "
        "below everything that it imports."
    )
    return rows[0]


def own_imports(path: Path) -> set[str]:
    """The names in the table that a file imports."""
    return {name for package, name in imports(path) if package == "autopeft" and name}


def test_a_module_imports_from_above_only() -> None:
    wrong = [
        f"{shown(path)} is above {name} and must not import it"
        for path in FILES
        for name in sorted(own_imports(path))
        if row_of(name) > row_of(place(path))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_table_names_nothing_that_is_gone() -> None:
    known = {place(path) for path in FILES}
    missing = {name for row in ROWS for name in row} - known
    assert not missing, f"The table names modules that do not exist: {', '.join(sorted(missing))}."


def test_search_sees_no_model() -> None:
    for path in (path for path in FILES if place(path) in WITHOUT_A_MODEL):
        assert not own_imports(path) & {*TRAINING, "searches"}, shown(path)
        assert not {package for package, _ in imports(path)} & HEAVY, shown(path)


def test_training_sees_no_search() -> None:
    for path in (path for path in FILES if place(path) in TRAINING):
        assert not own_imports(path) & {"study", "samplers", "searches"}, shown(path)


def at_once(module: ast.Module) -> Iterator[str]:
    """What a file imports when it is imported itself: not what a function does, nor what only a type checker sees."""
    waiting: list[ast.AST] = list(module.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            waiting += ast.iter_child_nodes(node)


def file_of(name: str) -> Path | None:
    """The file of a module of the package, also where the last part is a name in it; None for others' modules."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1) if parts[0] == "autopeft" else ():
        place = PACKAGE.joinpath(*parts[1:length])
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.exists() and length > 1:
                return path
    return None


def test_to_name_the_samplers_needs_no_botorch() -> None:
    """Every file of a member, and what these import at once, step by step: only a search that begins needs botorch."""
    waiting = [path for path in FILES if path.parent.name in ("samplers", "searches") and path.name[0] != "_"]
    waiting += [PACKAGE / "samplers" / "__init__.py", PACKAGE / "searches" / "__init__.py"]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for name in at_once(tree(path)):
            assert name.split(".")[0] not in ("botorch", "gpytorch"), f"{shown(path)} imports {name} at once"
            found = file_of(name)
            waiting += [] if found is None or found in seen else [found]
    assert PACKAGE / "samplers" / "_sampler.py" in seen


def test_nothing_uses_the_network_s_or_the_pickle_s_libraries() -> None:
    for path in FILES:
        names = {package for package, _ in imports(path)}
        # What the contracts copy is pickled and read again in memory; no file and nobody else's bytes are ever read so.
        allowed = {"pickle"} if path == PACKAGE / "testing" / "_copying.py" else set()
        assert not (names - allowed) & {"pickle", "shelve", "dill", "joblib", "requests", "urllib3", "httpx"}, path.name
        assert not names & {"pytest", "hypothesis", "jsonschema"}, f"{path.name} needs what only the tests do."
        calls = {ast.unparse(node.func) for node in nodes(path) if isinstance(node, ast.Call)}
        assert "torch.load" not in calls, path.name


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length of every function, its docstring not counted."""
    for node in nodes(path):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= (first.end_lineno or first.lineno) - first.lineno + 1
            yield node.name, lines


MOST_LINES = 400
LONG = "has more than 400 lines"
"""What the head of a longer file says, with its reason."""


def test_files_and_functions_are_short() -> None:
    for path in FILES:
        lines = len(path.read_text().splitlines())
        is_explained = LONG in (ast.get_docstring(tree(path)) or "")
        assert lines <= MOST_LINES or is_explained, f"{shown(path)}: {lines} lines, without a reason."
        assert not [(name, lines) for name, lines in functions(path) if lines > 60], shown(path)


def test_half_of_the_functions_have_at_most_ten_lines() -> None:
    lengths = sorted(lines for path in FILES for _, lines in functions(path))
    assert lengths[len(lengths) // 2] <= 10
    assert lengths[int(0.9 * len(lengths))] <= 35
    assert lengths[int(0.99 * len(lengths))] <= 40


def comments(path: Path) -> int:
    """Lines with a comment for a reader: none for a tool, and no heading."""
    words = ("# type:", "# noqa", "# fmt", "# --", "# !")
    with path.open("rb") as file:
        found = [token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT]
    return sum(not text.startswith(words) for text in found)


LEAST_COMMENTS = 0.03
"""Share of the lines: raised with what is written, lowered never. The anchors have 4 to 11 in a hundred."""


def test_comments_say_why_where_a_reader_must_stop() -> None:
    lines = sum(len(path.read_text().splitlines()) for path in FILES)
    share = sum(map(comments, FILES)) / lines
    assert share >= LEAST_COMMENTS, f"{share:.2%} of {lines:,} lines: write down why, in what you have added."


MEMBERS = {
    "method",
    "member",
    "family",
    "task",
    "answers",
    "spec",
    "sampler",
    "site",
    "learner",
    "objective",
    "protocol",
}
"""What variables that hold a member of a kind are called."""


def test_traits_of_members_are_typed() -> None:
    """What a member may say of itself it declares; nobody asks for it by a name that a type checker does not see."""
    for path in FILES:
        calls = [node for node in nodes(path) if isinstance(node, ast.Call) and len(node.args) > 1]
        asked = [node for node in calls if ast.unparse(node.func) in ("getattr", "hasattr")]
        wrong = [ast.unparse(node) for node in asked if ast.unparse(node.args[0]).split(".")[-1] in MEMBERS]
        # One place looks whether all that is to be declared is there.
        assert wrong in ([], ["hasattr(method, trait)"]), shown(path)


def said_kinds(path: Path) -> set[str]:
    """What the types of a file say that there is: the values of every `Literal` and enumeration in it."""
    literals = [
        node for node in nodes(path) if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal"
    ]
    return {one.value for node in literals for one in ast.walk(node.slice) if isinstance(one, ast.Constant)}


def own_kinds(path: Path) -> set[str]:
    """The kinds that a file may tell apart: those that it names itself, or that the folder with `_` around it does."""
    room = sorted(path.parent.glob("*.py")) if path.parent.name.startswith("_") else [path]
    return {kind for other in room for kind in said_kinds(other)}


def compared_kinds(path: Path) -> Iterator[tuple[int, str]]:
    """Line and constant of every place that asks whether a kind is a certain one."""
    for node in nodes(path):
        if isinstance(node, ast.Compare) and any(isinstance(op, (ast.Eq, ast.NotEq, ast.Is)) for op in node.ops):
            sides = [node.left, *node.comparators]
            if any(ast.unparse(side).split(".")[-1].removesuffix("()") in ("kind", "problem") for side in sides):
                yield from ((node.lineno, str(side.value)) for side in sides if isinstance(side, ast.Constant))


def test_kinds_are_told_apart_where_they_are_named_only() -> None:
    """Elsewhere one asks the member, a table of all kinds, or a property of the class that has the kind."""
    wrong = [
        f"{shown(path)}:{line} asks for {kind!r}"
        for path in FILES
        for line, kind in compared_kinds(path)
        if kind not in own_kinds(path) or kind in _answers.names()
    ]
    assert not wrong, "\n".join(wrong)


MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
MUTATING = {"append", "extend", "insert", "add", "update", "pop", "clear", "setdefault", "remove", "discard", "popitem"}


def global_containers(module: ast.Module) -> set[str]:
    """Names at the top level that are bound to a list, a dictionary or a set."""
    names = set()
    for node in module.body:
        value = getattr(node, "value", None)
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        is_container = isinstance(value, MUTABLE) or (
            isinstance(value, ast.Call) and ast.unparse(value.func) in ("list", "dict", "set", "defaultdict", "Counter")
        )
        names |= {target.id for target in targets if isinstance(target, ast.Name) and is_container}
    return names


def changes_of_globals(path: Path) -> list[str]:
    """What in a file binds or changes a name at its top level later than where that stands."""
    module = tree(path)
    names = global_containers(module)
    wrong = [f"global in line {node.lineno}" for node in nodes(path) if isinstance(node, ast.Global)]
    for node in nodes(path):
        targets = node.targets if isinstance(node, (ast.Assign, ast.Delete)) else []
        targets = [node.target] if isinstance(node, ast.AugAssign) else targets
        written = [t.value if isinstance(t, ast.Subscript) else t for t in targets]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATING:
            written = [node.func.value]
        is_binding = isinstance(node, ast.Assign) and node in module.body
        wrong += [
            f"{t.id} in line {node.lineno}"  # type: ignore[attr-defined]
            for t in written
            if isinstance(t, ast.Name) and t.id in names and not is_binding
        ]
    return wrong


def test_no_module_keeps_state() -> None:
    for path in FILES:
        wrong = changes_of_globals(path)
        assert not wrong, f"{shown(path)} changes what is global: {', '.join(wrong)}."


def test_links_that_lead_to_themselves_are_followed_without_an_error() -> None:
    # `Path.resolve` raises a RuntimeError for a loop, which nobody who opens files expects; see `reading.followed`.
    calls = [path.name for path in FILES if re.search(r"\.resolve\(", path.read_text())]
    assert calls == []


def test_no_clock_is_a_seed() -> None:
    """`time.time` and the like are never inside the arguments of something that takes a seed."""
    for path in FILES:
        for node in nodes(path):
            if isinstance(node, ast.Call) and "seed" in ast.unparse(node.func).lower():
                inside = " ".join(ast.unparse(argument) for argument in [*node.args, *(k.value for k in node.keywords)])
                assert "time" not in inside, f"{path.name}:{node.lineno}"


def without_docstrings(path: Path) -> list[str]:
    """Public names of a file that lack one."""
    module = tree(path)
    missing = [] if ast.get_docstring(module) or path.stem == "__init__" else ["the module"]
    for node in module.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            missing += [] if ast.get_docstring(node) else [node.name]
            is_protocol = isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases)
            if isinstance(node, ast.ClassDef) and not is_protocol:
                missing += [
                    f"{node.name}.{part.name}"
                    for part in node.body
                    if isinstance(part, ast.FunctionDef)
                    and not part.name.startswith("_")
                    and not ast.get_docstring(part)
                ]
    return missing


def test_every_public_name_has_a_docstring() -> None:
    for path in FILES:
        missing = without_docstrings(path)
        assert not missing, f"{shown(path)} lacks docstrings: {', '.join(missing)}."


def test_names_say_what_things_are() -> None:
    for path in FILES:
        assert path.stem not in {"utils", "helpers", "misc", "common"}
        assert path.parent.name not in {"utils", "helpers", "misc", "common"}
        text = path.read_text()
        assert "TODO" not in text, path.name
        assert "FIXME" not in text, path.name
        assert "NotImplementedError" not in text, path.name


# A gate is the supernet's, in the searches, which the methods and the network serve by masks and scales. What a model
# or a paper calls so keeps its name: the gated feed-forward of a family, and the input gate of UniPELT.
OTHER_GATES = {
    "backbones": {"gated", "ffn_gate", "gate_proj", "gate_up_proj"},
    "methods/gated": {"gate", "gates", "gated", "_gated", "serial_gated", "prefix_gated", "lora_gated"},
    "training/retraining": {"serial_gated", "prefix_gated", "lora_gated"},
}


def test_a_gate_is_the_supernet_s() -> None:
    for path in FILES:
        key = path.relative_to(PACKAGE).with_suffix("").as_posix()
        allowed = OTHER_GATES.get(key, OTHER_GATES.get(path.parent.name, set()))
        if path.parts[len(PACKAGE.parts)] != "searches":
            found = set(re.findall(r"(?<![A-Za-z])[a-z_]*(?<![a-z])gate[a-z_]*", path.read_text()))
            assert found <= allowed, f"{key} speaks of {', '.join(sorted(found - allowed))}."


LATE = ("sklearn", "scipy.stats", "pandas", "botorch", "jax", "numpyro", "matplotlib")
"""What takes half a second or more to import, and what no start needs."""
ASKED_FOR = ("benchmark", "pictures", "samplers/_bayes", "reports")
"""Rooms that are themselves imported where they are asked for."""


def imported_at_once(path: Path) -> set[str]:
    """What a file imports when it is imported itself."""
    found = set()
    for node in tree(path).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def test_nothing_slow_is_imported_before_it_is_needed() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in FILES
        if not path.relative_to(PACKAGE).as_posix().startswith(ASKED_FOR)
        for name in sorted(imported_at_once(path))
        if any(name == late or name.startswith(f"{late}.") for late in LATE)
    ]
    assert not wrong


def judged_by_the_clock(path: Path) -> list[int]:
    """Lines of a test file where the time that something took is compared with a number and asserted."""
    clocks = {"time", "monotonic", "perf_counter", "process_time"}

    def reads_a_clock(node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and ast.unparse(node.func).removeprefix("time.") in clocks

    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert)
        and any(
            isinstance(part, ast.BinOp) and isinstance(part.op, ast.Sub) and reads_a_clock(part.left)
            for part in ast.walk(node.test)
        )
    ]


def test_no_test_judges_the_machine_by_the_second() -> None:
    # A runner that is slow or busy would make it fail; what must not hang is held to a bound far above (`fuzzing`).
    found = {path.name: lines for path in Path(__file__).parent.rglob("*.py") if (lines := judged_by_the_clock(path))}
    assert found == {}


def test_a_test_that_judges_the_machine_would_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.write_text("began = time.monotonic()\nassert time.monotonic() < limit\nassert time.monotonic() - began < 30\n")
    assert judged_by_the_clock(path) == [3]
