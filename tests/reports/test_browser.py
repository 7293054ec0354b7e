"""The page in a browser without a network: points say what they are, and two of them are compared."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from autopeft.reports.content import ReportData
from autopeft.reports.html import html
from sample_trials import measured

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

CLICKS = """<script>
for (const point of [...document.querySelectorAll(".point")].slice(-2)) point.dispatchEvent(new MouseEvent("click"));
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_two_points_are_compared_in_a_browser(tmp_path: Path) -> None:
    page = html(ReportData("t", {}, [measured(0, 1000, 0.6), measured(1, 2000, 0.7, origin="saas")]))
    # The page allows no other script: for this test alone its policy is taken off and two clicks are added.
    clicked = re.sub(r"<meta http-equiv=.*?>\n", "", page).replace("</body>", f"{CLICKS}</body>")
    shown = {}
    for name, text in (
        ("as it is", page),
        ("clicked", clicked),
        ("forbidden", page.replace("</body>", f"{CLICKS}</body>")),
    ):
        path = tmp_path / f"{name}.html"
        path.write_text(text)
        command = [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom", path.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        shown[name] = done.stdout
    for name in ("as it is", "forbidden"):  # nothing is compared before two are chosen, and no foreign script runs
        assert "Two points compared" not in shown[name].split("<script>")[0]
        assert "<title>#1, found by saas, seed 7" in shown[name]
    panel = shown["clicked"].split("<script>")[0]
    assert "Two points compared" in panel
    assert '<th>validation accuracy</th><td class="n">0.6</td><td class="n">0.7</td><td class="n">+0.1</td>' in panel
    assert '<th>found by</th><td class="n">initial, seed 7</td><td class="n">saas, seed 7</td>' in panel
