"""From settings to a running search: the one place where all parts meet.

A study lives in a folder: ``study.db`` (trials and facts), ``settings.yaml`` (every setting, resolved), and what
is made of them (pictures, report, logs of workers).
"""

from __future__ import annotations

from autopeft.session.begun import as_begun
from autopeft.session.inputs import check_retraining
from autopeft.session.parts import answers_budgets, build_space, resolved
from autopeft.session.precision import settled
from autopeft.session.processes import carry_out, join, search, worker_command, worker_environment
from autopeft.session.session import STUDY, Session, has_begun
from autopeft.session.worker_number import with_workers

__all__ = [
    "STUDY",
    "Session",
    "answers_budgets",
    "as_begun",
    "build_space",
    "carry_out",
    "check_retraining",
    "has_begun",
    "join",
    "resolved",
    "search",
    "settled",
    "with_workers",
    "worker_command",
    "worker_environment",
]
