"""The SAAS process by the No-U-Turn sampler, compiled once for many numbers of observations.

BoTorch's own fit compiles the model anew at every call: half of its time at the sizes of a search. Here the data
are arguments of the compiled program, padded with masked rows to a multiple of 32, so a search from 100 to 200
trials compiles four times rather than a hundred. Importing this module imports JAX, NumPyro and BoTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from botorch.models.fully_bayesian import (
    MIN_INFERRED_NOISE_LEVEL,
    SaasFullyBayesianSingleTaskGP,
    matern52_kernel,
)
from numpy.typing import NDArray
from numpyro.infer import MCMC, NUTS
from torch import Tensor

from autopeft.samplers._bayes.settings import Nuts

_TREE_DEPTH = 6
_ROWS = 32


def fit(x: Tensor, y: Tensor, input_transform: Any, *, seed: int, nuts: Nuts) -> Any:
    """A fully Bayesian BoTorch model with ``ceil(samples / thinning)`` members.

    Args:
        x: ``(n, d)``, float64.
        y: ``(n, 1)``, about zero mean and unit variance.
        input_transform: BoTorch's, or None.
        seed: of the sampler.
    """
    with _double_precision():
        model = SaasFullyBayesianSingleTaskGP(x, y, input_transform=input_transform)
        inner = model.pyro_model
        drawn = draw(inner.train_X.numpy(), inner.train_Y.squeeze(-1).numpy(), seed=seed, nuts=nuts)
        samples = inner.postprocess_mcmc_samples({name: value[:: nuts.thinning] for name, value in drawn.items()})
    model.load_mcmc_samples(samples)
    model.eval()
    return model


def draw(x: NDArray[np.float64], y: NDArray[np.float64], *, seed: int, nuts: Nuts) -> dict[str, Any]:
    """All `nuts.samples` draws of the hyper-parameters, by name, as JAX arrays."""
    n, d = x.shape
    rows = -(-n // _ROWS) * _ROWS
    inputs, outputs, mask = np.zeros((rows, d)), np.zeros(rows), np.zeros(rows)
    inputs[:n], outputs[:n], mask[:n] = x, y, 1.0
    with _double_precision():
        sampler = _sampler(nuts)
        sampler.run(jax.random.PRNGKey(seed), jnp.asarray(inputs), jnp.asarray(outputs), jnp.asarray(mask))
        samples: dict[str, Any] = sampler.get_samples()
    return samples


@cache
def _sampler(nuts: Nuts) -> Any:
    """A sampler whose compiled program is kept between calls; it keeps nothing else."""
    kernel = NUTS(_saas, dense_mass=True, max_tree_depth=_TREE_DEPTH)
    return MCMC(kernel, num_warmup=nuts.warmup, num_samples=nuts.samples, progress_bar=False, jit_model_args=True)


def _saas(x: jax.Array, y: jax.Array, mask: jax.Array) -> None:
    """Eriksson and Jankowiak 2021 (arXiv 2103.00349), section 4.2, with BoTorch's priors and names.

    A masked row is an independent standard normal observation of 0: a constant factor of the likelihood.
    """
    outputscale = numpyro.sample("outputscale", dist.Gamma(2.0, 0.15))
    mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    noise = MIN_INFERRED_NOISE_LEVEL + numpyro.sample("noise", dist.Gamma(0.9, 10.0))
    shrinkage = numpyro.sample("kernel_tausq", dist.HalfCauchy(0.1))
    factors = numpyro.sample("_kernel_inv_length_sq", dist.HalfCauchy(jnp.ones(x.shape[-1])))
    kernel = outputscale * matern52_kernel(X=x, lengthscale=1.0 / jnp.sqrt(shrinkage * factors))
    covariance = kernel * mask[:, None] * mask[None, :] + jnp.diag(jnp.where(mask > 0, noise, 1.0))
    numpyro.sample("y", dist.MultivariateNormal(mean * mask, covariance_matrix=covariance), obs=y * mask)


def _double_precision() -> AbstractContextManager[Any]:
    """JAX computes in float32 unless told otherwise; before release 0.8 the switch was experimental."""
    switch: Callable[[bool], AbstractContextManager[Any]] | None = getattr(jax, "enable_x64", None)
    if switch is None:
        from jax import experimental

        switch = experimental.enable_x64
    return switch(True)
