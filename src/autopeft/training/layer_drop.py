"""AdapterDrop's robust training (Rücklé et al. 2020, arXiv 2010.11918, section 3.2)."""

from __future__ import annotations

import numpy as np

from autopeft.network.attach import Attached


class LayerDrop:
    """Leaves the modules of the first n layers of every stack out of a step, n uniform from 0 to `most`.

    The highest layer of a stack that holds a module always keeps it, so that there is something to train. Modules
    outside the layers are never left out.
    """

    def __init__(self, attached: Attached, most: int, seed: int) -> None:
        self._attached, self._most, self._seed = attached, most, seed
        sites = {key: attached.backbone.site(key[0]) for key in attached.modules}
        self._layers = {key: (site.stack, site.layer) for key, site in sites.items() if site.layer is not None}
        self._tops = dict.fromkeys((stack for stack, _ in self._layers.values()), 0)
        for stack, layer in self._layers.values():
            self._tops[stack] = max(self._tops[stack], layer)

    def __call__(self, step: int) -> None:
        """Leave out what `step` leaves out; it depends on the seed and the step alone."""
        # A generator a step and none that is kept: a run that goes on in another process draws what it would have
        # drawn.
        n = int(np.random.default_rng([self._seed, step]).integers(self._most + 1))
        for key, (stack, layer) in self._layers.items():
            # A step in which nothing at all takes part would have no gradient, and the head alone would be fitted to
            # it.
            if layer < min(n, self._tops[stack]):
                self._attached.masks[key] = 0
            else:
                self._attached.masks.pop(key, None)

    def nothing(self) -> None:
        """Everything takes part again."""
        for key in self._layers:
            self._attached.masks.pop(key, None)
