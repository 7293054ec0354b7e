"""How a trial is written into Optuna's storage.

Everything of ours is a JSON attribute, so that a trial can be read without the space that it came from. What Optuna
and its dashboard show beside it (parameters, two objective values) is written as well, and never read.
"""

from __future__ import annotations

from datetime import datetime

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as StoredState

from autopeft.fidelity import FULL
from autopeft.objective import Measurement
from autopeft.spaces.lattice import Choice
from autopeft.study.lease import Lease
from autopeft.study.record import Proposal
from autopeft.trial import Trial


def write_trial(proposal: Proposal, choices: tuple[Choice, ...], seed: int, lease: Lease) -> FrozenTrial:
    """A running trial, complete with all attributes, so that it appears in the storage in one step."""
    pairs = list(zip(choices, proposal.configuration.indices, strict=True))
    attributes = {
        "configuration": list(proposal.configuration.indices),
        **proposal.candidate.as_dict(),
        "fingerprint": proposal.candidate.fingerprint,
        "origin": proposal.origin,
        "seed": seed,
        "proposal_seconds": proposal.proposal_seconds,
        "retry_of": proposal.retry_of,
        "lease": lease.as_dict(),
        **({} if proposal.rung is None else {"rung": proposal.rung, "continues": proposal.continues}),
    }
    return FrozenTrial(
        number=-1,  # the storage gives the number
        trial_id=-1,
        state=StoredState.RUNNING,
        value=None,
        datetime_start=datetime.now(),
        datetime_complete=None,
        # For Optuna's dashboard alone, which plots by parameters.
        params={choice.name: choice.values[index] for choice, index in pairs},
        distributions={choice.name: distribution(choice) for choice in choices},
        user_attrs=attributes,
        system_attrs={},
        intermediate_values={},
    )


def distribution(choice: Choice) -> BaseDistribution:
    """A choice as Optuna shows it: whole numbers where its values are consecutive, categories otherwise."""
    first, last = choice.values[0], choice.values[-1]
    # A category for each would lose their order in the dashboard's plots.
    if all(isinstance(value, int) for value in choice.values) and last - first + 1 == len(choice.values):
        return IntDistribution(int(first), int(last))
    return CategoricalDistribution(choice.values)


def told_as(trial: Trial, measurement: Measurement) -> StoredState:
    """How a measured trial is stored: one that stands at a rung is what Optuna calls pruned, which no front of its has.

    A training that patience has ended at a rung is over, and has its measurement at the end.
    """
    reached = measurement.extra.get("rungs", ())
    is_over = trial.rung is None or not reached or reached[-1]["fidelity"] == FULL.to_json()
    return StoredState.COMPLETE if is_over else StoredState.PRUNED
