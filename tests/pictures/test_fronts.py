"""Several fronts in one picture."""

from __future__ import annotations

from autopeft.pictures import canvas
from autopeft.pictures.fronts import fronts_data
from sample_trials import failed, measured

RUNS = {
    "random": [
        [measured(0, 1000, 0.6), measured(1, 2000, 0.8), measured(2, 3000, 0.7)],
        [measured(0, 500, 0.5), measured(1, 2000, 0.9), failed(2)],
    ],
    "guided": [[measured(0, 1000, 0.7)]],
}


def test_each_seed_has_its_front_and_the_sampler_their_joint_front() -> None:
    data = fronts_data(RUNS)
    random = data.series[0]
    assert [[(p.cost, p.value) for p in front.points] for front in random.fronts] == [
        [(1.0, 0.6), (2.0, 0.8)],
        [(0.5, 0.5), (2.0, 0.9)],
    ]
    assert [(p.cost, p.value) for p in random.joint.points] == [(0.5, 0.5), (1.0, 0.6), (2.0, 0.9)]
    assert data.metric == "validation accuracy"
    assert "random, 2 seeds, 3 points from 0.5 at 0.5 % to 0.9 at 2 %" in data.alt
    assert "guided, 1 seed, 1 point from" in data.alt


def test_thin_lines_for_seeds_and_a_thick_one_for_their_joint_front() -> None:
    lines = canvas.picture(fronts_data(RUNS)).axes[0].get_lines()
    # random: two seeds, joint, markers; guided: joint alone and markers.
    assert len(lines) == 4 + 2
    joint = lines[2]
    assert list(joint.get_ydata())[:3] == [0.5, 0.6, 0.9]
    assert joint.get_linewidth() > lines[0].get_linewidth()
    assert lines[4].get_label() == "guided (single seed)"


def test_nothing_measured_is_said() -> None:
    data = fronts_data({"random": [[failed(0)]]})
    assert data.alt.endswith("Nothing has been measured yet.")
    assert "nothing has been measured" in canvas.picture(data).axes[0].texts[0].get_text()
