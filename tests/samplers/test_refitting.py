"""Hyper-parameters are fitted at some numbers of trials only, and nothing that is proposed depends on the process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from autopeft import samplers
from autopeft.samplers._bayes.refitting import last_fit
from autopeft.samplers._bayes.settings import PRESETS, Nuts
from autopeft.samplers.random import initial_design
from autopeft.samplers.saas_nehvi import SaasNehvi
from autopeft.spaces.lattice import Configuration
from autopeft.trial import Trial
from lattice import autopeft_space, complete, history

QUICK = {"refit": 0.5, "pareto_starts": 1, "random_starts": 1, "moves": 2, "mc_samples": 8}
SAMPLED = {"integration": "sampled", "cost_model": "gp", "acquisition": "nehvi", "evaluations": 20}


def test_the_numbers_of_trials_by_hand() -> None:
    reached = sorted({last_fit(n, 0.1) for n in range(2, 61)})
    assert reached == [*range(2, 21), 22, 24, 26, 28, 30, 33, 36, 39, 42, 46, 50, 55, 60]
    assert [last_fit(n, 0.1) for n in (49, 50, 54)] == [46, 50, 50]
    assert [last_fit(n, 0.0) for n in (2, 17, 500)] == [2, 17, 500]
    assert [last_fit(n, 1.0) for n in (2, 3, 4, 7, 8, 100)] == [2, 2, 4, 4, 8, 64]


def _trials(n: int) -> list[Trial]:
    space = autopeft_space()
    return history(space, initial_design(space, 0, n))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, SAMPLED, {"preset": "robust"}])
def test_a_process_that_saw_the_trials_grow_proposes_what_a_new_one_does(options: dict[str, Any]) -> None:
    space, trials = autopeft_space(), _trials(10)
    old = samplers.build("saas-nehvi", space, 3, {**QUICK, **options})
    old.ask(trials[:9], 1)
    new = samplers.build("saas-nehvi", space, 3, {**QUICK, **options})
    assert old.ask(trials, 2) == new.ask(trials, 2)


def test_of_thirty_proposals_eight_fit_and_after_another_study_all_is_fitted_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from autopeft.samplers._bayes import refitting, surrogate

    seen: list[int] = []

    def counted(kind: Any, x: torch.Tensor, y: torch.Tensor, *, noise: Any, nuts: Any, **options: Any) -> Any:
        seen.append(len(x))
        return surrogate.unfitted(kind, x, y, noise=noise, **options)

    monkeypatch.setattr(refitting, "fit", counted)
    sampler, trials = SaasNehvi(autopeft_space(), 0, PRESETS["recommended"]), _trials(59)
    for n in range(30, 60):
        sampler._fit(sampler._data(trials[:n]), n)
    assert seen == [30, 33, 36, 39, 42, 46, 50, 55]
    other = [complete(autopeft_space(), 0, trials[0].configuration, 0.3), *trials[1:]]
    sampler._fit(sampler._data(other), 0)
    assert seen[-1] == 55
    assert len(seen) == 9


def test_between_two_fits_the_process_sees_new_values_with_the_same_hyper_parameters() -> None:
    space, trials = autopeft_space(), _trials(6)
    sampler = SaasNehvi(space, 0, replace(PRESETS["recommended"], refit=0.5))
    models = [sampler._fit(sampler._data(trials[:n]), 0) for n in (4, 5)]
    lengths = [model.covar_module.base_kernel.lengthscale for model in models]
    assert torch.equal(*lengths)
    assert [model.train_targets.shape[-1] for model in models] == [4, 5]
    again = sampler._fit(sampler._data(trials), 0)
    assert not torch.equal(again.covar_module.base_kernel.lengthscale, lengths[0])


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_the_papers_presets_fit_for_every_proposal(preset: str) -> None:
    assert PRESETS[preset].refit == 0
    assert "refit" not in PRESETS[preset].as_dict()


def test_a_first_fit_that_fails_is_made_up_for_by_one_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from autopeft.samplers._bayes import refitting

    def broken(kind: Any, x: torch.Tensor, *args: Any, **options: Any) -> Any:
        if len(x) < 23:
            raise RuntimeError("no convergence")
        return f"a fit to {len(x)}"

    monkeypatch.setattr(refitting, "fit", broken)
    sampler = SaasNehvi(autopeft_space(), 0, PRESETS["recommended"])
    assert sampler._fit(sampler._data(_trials(23)), 0) == "a fit to 23"


def test_a_study_that_began_before_goes_on_with_a_fit_for_every_proposal() -> None:
    before = {**PRESETS["recommended"].as_dict(), "moves": 7}
    del before["refit"]
    begun = samplers.as_begun("saas-nehvi", {"moves": 7}, before)
    assert samplers.build("saas-nehvi", autopeft_space(), 0, begun).settings == before  # type: ignore[attr-defined]
    assert samplers.as_begun("saas-nehvi", {"moves": 7}, {}) == {"moves": 7}


# -- the posterior in parts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_noise_known", [False, True])
@pytest.mark.parametrize("kind", ["gp", "saas-map", pytest.param("saas-nuts", marks=pytest.mark.slow)])
def test_the_posterior_in_parts_is_botorchs(kind: Any, is_noise_known: bool) -> None:
    from autopeft.samplers._bayes.posterior import Posterior
    from autopeft.samplers._bayes.surrogate import fit
    from autopeft.samplers._propose import quiet

    rng = np.random.default_rng(0)
    x, at = torch.as_tensor(rng.random((12, 3))), torch.as_tensor(rng.random((9, 3)))
    y = torch.sin(4 * x[:, :1]) + 0.1 * torch.as_tensor(rng.standard_normal((12, 1)))
    noise = torch.full_like(y, 0.01) if is_noise_known else None
    with quiet(0):
        model = fit(kind, x, y, n_features=3, seed=0, nuts=Nuts(16, 16, 8), noise=noise)
        with torch.no_grad():
            whole = model.posterior(at).distribution
    posterior = Posterior(model)
    left, right = posterior.at(at[:4]), posterior.at(at[4:])
    means = torch.cat([left.mean, right.mean], -1)
    assert torch.allclose(means, whole.mean.reshape(-1, 9), atol=1e-7)
    covariance = whole.covariance_matrix.reshape(-1, 9, 9)
    assert torch.allclose(posterior.covariance(left, right), covariance[:, :4, 4:], atol=1e-7)
    assert torch.allclose(posterior.variance(right), covariance.diagonal(dim1=-2, dim2=-1)[:, 4:], atol=1e-7)


def test_candidates_far_apart_in_cost_are_scored_as_alone() -> None:
    """Sorting by cost and leaving out stairs changes neither values nor their order."""
    from autopeft.samplers._bayes.acquisition import KnownCostNehvi

    space, trials = autopeft_space(), _trials(12)
    sampler = SaasNehvi(space, 0, PRESETS["recommended"])
    x = sampler._encoded([trial.configuration for trial in trials])
    cost = torch.as_tensor(sampler._position([trial.configuration for trial in trials]))
    function = KnownCostNehvi(sampler._fit(sampler._data(trials), 0), x, cost, (-2.0, 1.0), n_samples=16, seed=0)
    candidates: list[Configuration] = space.sample(np.random.default_rng(1), 300)
    rows, price = sampler._encoded(candidates), torch.as_tensor(sampler._position(candidates))
    together = function(rows, price)
    alone = torch.cat([function(rows[i : i + 1], price[i : i + 1]) for i in range(0, 300, 10)])
    assert torch.allclose(together[::10], alone, rtol=1e-9)
    assert len(function(rows[:0], price[:0])) == 0
