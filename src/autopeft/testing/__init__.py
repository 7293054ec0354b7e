"""The contracts of every kind, for members of one's own: a call of one function, in any test runner or in none.

    from autopeft.testing import check_method
    check_method("my_lab.mixers:MIXER")

Each function runs every promise of its kind on very small models with random weights and gives the names of those
that were checked; what is not kept is raised together, as an `ExceptionGroup`. The project's own contract tests are
these promises for every member.
"""

from autopeft.testing.answers import check_answers
from autopeft.testing.families import check_family
from autopeft.testing.methods import check_method
from autopeft.testing.objectives import check_cost
from autopeft.testing.promotions import check_promotion
from autopeft.testing.samplers import check_sampler
from autopeft.testing.searches import check_search
from autopeft.testing.tasks import check_task

__all__ = [
    "check_answers",
    "check_cost",
    "check_family",
    "check_method",
    "check_promotion",
    "check_sampler",
    "check_search",
    "check_task",
]
