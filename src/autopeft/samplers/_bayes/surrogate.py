"""Gaussian processes over encoded configurations: SAAS by NUTS, SAAS by maximum a posteriori, or a plain one.

SAAS (Eriksson and Jankowiak 2021, arXiv 2103.00349) lets few inputs matter: inverse squared lengthscales are a
global shrinkage times half-Cauchy factors. Importing this module imports BoTorch; import it where it is used.
"""

from __future__ import annotations

import logging
import math
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from botorch.exceptions.errors import BotorchError, ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.map_saas import EnsembleMapSaasSingleTaskGP
from botorch.models.transforms.input import FilterFeatures
from gpytorch.mlls import ExactMarginalLogLikelihood
from torch import Tensor

from autopeft.errors import SettingsError
from autopeft.samplers._bayes.settings import Nuts, Surrogate

_log = logging.getLogger(__name__)

# What a fit or an acquisition function may raise on awkward data; a search goes on without them.
FAILURES = (ArithmeticError, RuntimeError, ValueError, BotorchError, ModelFittingError)

# Members of the maximum-a-posteriori ensemble; each has its own global shrinkage.
_SHRINKAGES = 4
_NUTS_ATTEMPTS = 3


def check_nuts() -> None:
    """Nothing, when NumPyro and JAX are there.

    Raises:
        SettingsError: they are not installed; the message says how to.
    """
    missing = [name for name in ("numpyro", "jax") if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"The surrogate 'saas-nuts' needs {' and '.join(missing)}: pip install 'autopeft[saas]', "
            "or choose surrogate 'saas-map'."
        )


def fit(
    kind: Surrogate, x: Tensor, y: Tensor, *, n_features: int, seed: int, nuts: Nuts, noise: Tensor | None = None
) -> Any:
    """A fitted BoTorch model of one output, whose posterior is on the scale of `y`.

    Args:
        x: inputs in the unit cube, ``(n, d)``, float64.
        y: transformed outputs, ``(n, 1)``, about zero mean and unit variance, larger is better.
        n_features: the leading columns of `x` that the process sees; the others are carried along for the
            acquisition function.
        seed: of the shrinkages and of NUTS.
        noise: the variance of each value of `y`, ``(n, 1)``, where it is known; None to fit one for all, which with
            few values and many inputs is often fitted as none at all. NUTS fits its own.

    Raises:
        botorch.exceptions.errors.ModelFittingError: the fit did not converge in five attempts.
    """
    if kind == "saas-nuts":
        fitted = _fit_nuts(x, y, _wanted(x, n_features), seed, nuts)
        # A chain that fails is no reason to end a search that has run for days: the other fit needs no chain.
        if fitted is not None:
            return fitted
        _log.warning("NUTS failed %d times; this proposal uses the maximum-a-posteriori fit instead.", _NUTS_ATTEMPTS)
    model = unfitted(kind, x, y, n_features=n_features, seed=seed, noise=noise)
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model


def unfitted(kind: Surrogate, x: Tensor, y: Tensor, *, n_features: int, seed: int, noise: Tensor | None = None) -> Any:
    """The model that `fit` optimises: SAAS with one of its shrinkages a member unless `kind` is "gp"."""
    wanted = _wanted(x, n_features)
    if kind == "gp":
        return SingleTaskGP(x, y, noise, outcome_transform=None, input_transform=wanted)
    taus = _shrinkages(seed)
    return EnsembleMapSaasSingleTaskGP(
        x, y, noise, num_taus=len(taus), taus=taus, outcome_transform=None, input_transform=wanted
    )


def _wanted(x: Tensor, n_features: int) -> Any:
    # The cost rides along as a last column for the acquisition function; the process must not learn from it.
    return FilterFeatures(feature_indices=torch.arange(n_features)) if n_features < x.shape[-1] else None


def _shrinkages(seed: int) -> Tensor:
    """Draws of the half-Cauchy(0.1) prior, one from each quarter of it, so that small ensembles cover it."""
    rng = np.random.default_rng([seed, 0x5AA5])
    quantiles = (np.arange(_SHRINKAGES) + rng.random(_SHRINKAGES)) / _SHRINKAGES
    # The last quarter of a half-Cauchy has no end: its draws stop at the 99th percentile.
    return torch.as_tensor(0.1 * np.tan(math.pi / 2 * np.minimum(quantiles, 0.99)), dtype=torch.float64)


def _fit_nuts(x: Tensor, y: Tensor, wanted: Any, seed: int, nuts: Nuts) -> Any:
    """A fully Bayesian model, or None after several failures, each with a new seed."""
    for attempt in range(_NUTS_ATTEMPTS):
        try:
            # A large prime apart, so that the attempts of one proposal share no seed with those of the next.
            model = run_nuts(x, y, wanted, seed=(seed + 7919 * attempt) % 2**31, nuts=nuts)
            with torch.no_grad():
                # Chains that diverge return numbers all the same, and only a prediction shows that they are none.
                if torch.isfinite(model.posterior(x[:1]).mean).all():
                    return model
            _log.info("NUTS attempt %d gave values that are not finite.", attempt + 1)
        except FAILURES as error:
            _log.info("NUTS attempt %d failed: %s", attempt + 1, error)
    return None


def run_nuts(x: Tensor, y: Tensor, wanted: Any, *, seed: int, nuts: Nuts) -> Any:
    """`saas_nuts.fit`, imported when it is first needed: JAX is an extra, and slow to import."""
    from autopeft.samplers._bayes import saas_nuts

    return saas_nuts.fit(x, y, wanted, seed=seed, nuts=nuts)
