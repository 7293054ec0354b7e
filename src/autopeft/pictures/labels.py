"""Short names for people: an architecture in one line, a metric with its split."""

from __future__ import annotations

from collections.abc import Sequence

from autopeft.architecture import Architecture, layers_told
from autopeft.candidate import Candidate
from autopeft.trial import Trial


def brief(given: Candidate | Architecture) -> str:
    """One short line: ``parallel 96, prefix 1, serial 12 · layers 3,4,8–10``; layers are counted from 1.

    A method whose size differs between places shows its smallest and largest size, and so does one whose scale is not
    everywhere its own: ``lora 8 ×2``. Changes of the recipe stand at the end. Stacks are named when there
    are several, and so are sites outside the layers.
    """
    changes = str(Candidate.of(given).changes)
    return _placed(Candidate.of(given).architecture) + (f" · {changes}" if changes else "")


def _placed(architecture: Architecture) -> str:
    if architecture.is_empty:
        return "head only"
    sizes: dict[str, set[int]] = {}
    scales: dict[str, set[float]] = {}
    layers: dict[str, set[int]] = {}
    outside: set[str] = set()
    for item in architecture:
        sizes.setdefault(item.method, set()).add(item.size)
        scales.setdefault(item.method, set()).add(item.scale)
        stack, layer, name = site_parts(item.site)
        if layer is None:
            outside.add(f"{stack} {name}".strip())
        else:
            layers.setdefault(stack, set()).add(layer)
    modules = ", ".join(f"{method} {_span(found)}{_scaled(scales[method])}" for method, found in sorted(sizes.items()))
    ordered = sorted(layers, key=lambda stack: (stack != "encoder", stack))
    places = [
        f"{stack if len(layers) > 1 else 'layers' if len(layers[stack]) > 1 else 'layer'} {layers_told(layers[stack])}"
        for stack in ordered
    ]
    return " · ".join([modules, ", ".join(places + sorted(outside))])


def site_parts(site: str) -> tuple[str, int | None, str]:
    """Stack, 0-based layer or None, and role of a site's key."""
    parts = site.split(".")
    if len(parts) >= 3 and parts[1].isdigit():
        return parts[0], int(parts[1]), ".".join(parts[2:])
    return parts[0], None, ".".join(parts[1:])


def _scaled(scales: set[float]) -> str:
    ends = dict.fromkeys(f"{scale:.3g}" for scale in (min(scales), max(scales)))
    return "" if scales == {1.0} else f" ×{'–'.join(ends)}"


def _span(sizes: set[int]) -> str:
    return str(min(sizes)) if len(sizes) == 1 else f"{min(sizes)}–{max(sizes)}"


def metric_label(trials: Sequence[Trial]) -> str:
    """The split and the metric of the measured trials, such as ``validation accuracy``; several are joined."""
    names = {f"{t.measurement.split} {t.measurement.objective}".strip() for t in trials if t.measurement is not None}
    return " / ".join(sorted(names)) or "metric"
