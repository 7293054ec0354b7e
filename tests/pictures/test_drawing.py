from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from autopeft.errors import SettingsError
from autopeft.pictures.canvas import picture, save, svg
from autopeft.pictures.cloud import cloud_data
from autopeft.pictures.front import front_data
from autopeft.pictures.hypervolume import hypervolume_data
from autopeft.pictures.layers import layers_data
from autopeft.pictures.learning import learning_data
from autopeft.pictures.points import NamedPoint, Picture
from autopeft.pictures.results import results_data
from sample_trials import failed, measured

_HISTORY = ((0.5, 0.9), (0.6, 0.5))
_TRIALS = [
    measured(0, 0, 0.55, "bias@encoder.0.ffn:1", history=_HISTORY),  # free by the nominal rule: a logarithm has no 0
    measured(1, 2000, 0.6, "serial@encoder.0.ffn:4", "lora@decoder.0.q:8", history=_HISTORY),
    failed(2),
    measured(3, 9000, 0.7, "serial@encoder.1.ffn:8", origin="saas", history=_HISTORY),
    measured(4, 9500, 0.1, origin="saas"),
]
_POINTS = [NamedPoint("Serial", 0.8, 0.62, 0.02, 5, "validation"), NamedPoint("LoRA", 0.3, 0.6, seeds=1)]


def _pictures(trials: list[object]) -> dict[str, Picture]:
    some = _TRIALS if trials else []
    return {
        "front": front_data(some, _POINTS if some else ()),
        "layers": layers_data(some),
        "cloud": cloud_data({"a": some, "b": some[:2]}),
        "hypervolume": hypervolume_data({"a": [some, some], "b": [some]}, (10.0, 0.05)),
        "learning": learning_data(some),
        "results": results_data(_POINTS if some else (), _POINTS if some else (), metric="accuracy"),
    }


@pytest.mark.parametrize("trials", [[], [1]], ids=["empty", "some"])
@pytest.mark.parametrize("name", ["front", "layers", "cloud", "hypervolume", "learning", "results"])
def test_every_picture_is_drawn_and_shows_something(name: str, trials: list[object]) -> None:
    data = _pictures(trials)[name]
    figure = picture(data)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    assert pixels.shape[1::-1] == canvas.get_width_height()
    assert (pixels < 128).any(axis=2).sum() > 200  # ink


def test_the_front_is_a_step_line_through_its_points_on_a_logarithmic_cost() -> None:
    (ax,) = picture(front_data(_TRIALS)).axes
    assert ax.get_xscale() == "log"
    assert ax.get_ylabel() == "validation accuracy"
    assert ax.get_xlabel().startswith("nominal parameters, % of the backbone (log scale)")
    assert "0 % at the left edge" in ax.get_xlabel()
    steps = next(line for line in ax.lines if line.get_drawstyle() == "steps-post")
    # the free point is drawn at half of the least cost, and the line runs on to the right edge
    np.testing.assert_allclose(np.asarray(steps.get_xdata())[:3], [1.0, 2.0, 9.0])
    np.testing.assert_allclose(np.asarray(steps.get_ydata()), [0.55, 0.6, 0.7, 0.7])
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[:3] == ["trials (4)", "1 trial below 0.168", "Pareto front"]  # 0.1 + 0.05 * 3 * (0.55 - 0.1)


def test_test_means_are_drawn_in_another_panel_than_validation() -> None:
    other = NamedPoint("b", 0.5, 0.9, seeds=3, split="test")
    (ax,) = picture(front_data(_TRIALS, [other])).axes
    below, main = ax.child_axes
    assert (main.get_ylabel(), below.get_ylabel()) == ("validation accuracy", "test, mean")
    assert not any(0.9 in np.asarray(line.get_ydata(), dtype=float) for line in main.lines)
    assert any(0.9 in np.asarray(line.get_ydata(), dtype=float) for line in below.lines)


def test_a_rival_has_a_colour_a_budget_a_marker_and_no_line_joins_points() -> None:
    points = [
        NamedPoint(f"{who} {cost}", cost, 0.5 + cost / 10, 0.1, split="test", group=who, mark=f"{cost:g} %")
        for who in "ba"
        for cost in (1.0, 2.0)
    ]
    data = results_data(points)
    assert (data.groups, data.marks) == (("b", "a"), ("1 %", "2 %"))
    (ax,) = picture(data).axes
    drawn = [line for line in ax.lines if len(np.asarray(line.get_xdata())) == 1]
    told = {(line.get_color(), line.get_marker()) for line in drawn if line.get_marker() not in ("_", "|")}
    assert len({colour for colour, _ in told}) == len({marker for _, marker in told}) == 2
    assert len(told) == 4
    assert not [line for line in ax.lines if len(np.asarray(line.get_xdata())) > 1 and line.get_linestyle() != "None"]
    key = ax.get_legend()
    assert key is not None
    assert [text.get_text() for text in key.get_texts()] == ["b", "a", "1 %", "2 %"]
    # Two rivals at one cost stand a little apart, both near the truth.
    (low, _), (high, _) = sorted(place for place in data.places(0.1) if place[1] == 0.6)
    assert 0.95 < low < 1.0 < high < 1.05
    (ax,) = picture(results_data([NamedPoint("a", 1, 0.5), NamedPoint("b", 2, 0.6)])).axes
    assert {len(np.asarray(line.get_xdata())) for line in ax.lines} == {1}


def test_dollars_in_titles_and_names_are_dollars() -> None:
    broken = r"from $1 to \frac$ 2"  # as mathematics this is an error
    figure = picture(results_data([NamedPoint(broken, 0.8, 0.62)], (), metric=broken, title=broken))
    FigureCanvasAgg(figure).draw()
    assert broken in {text.get_text() for text in figure.findobj(Text)}


def test_the_settings_of_matplotlib_are_left_as_they_were(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    figure = picture(front_data(_TRIALS))
    save(figure, tmp_path / "a.png")
    svg(figure)
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_not_imported_and_the_package_needs_no_matplotlib_to_import() -> None:
    code = (
        "import sys, autopeft.pictures.canvas, autopeft.pictures.front, autopeft.reports.report\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from autopeft.pictures import canvas, points, results\n"
        "canvas.picture(results.results_data([points.NamedPoint('a', 1, 0.5)]))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml"), ("a.pdf", b"%PDF")])
def test_the_ending_picks_the_format_and_bytes_repeat(tmp_path: Path, name: str, start: bytes) -> None:
    first, second = tmp_path / name, tmp_path / f"again-{name}"
    for path in (first, second):
        save(picture(results_data(_POINTS)), path, dpi=40)
    assert first.read_bytes().startswith(start)
    assert first.read_bytes() == second.read_bytes()


def test_wrong_endings_folders_and_data_are_refused(tmp_path: Path) -> None:
    figure = picture(results_data(_POINTS))
    with pytest.raises(SettingsError, match=r"ends in \.png, \.svg, \.pdf, but got 'a\.gif'"):
        save(figure, tmp_path / "a.gif")
    with pytest.raises(SettingsError, match=r"folder .*missing.* does not exist"):
        save(figure, tmp_path / "missing" / "a.png")
