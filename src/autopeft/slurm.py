"""Workers as jobs of Slurm: each runs ``autopeft worker``, and they share their study through a database server.

What a job is and how it is queued is submitit's; here is what each is told. A job that Slurm ends before its time, or
takes the nodes of, gives its trial back: see `autopeft.interruption`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from autopeft.errors import InputError

Cluster = Literal["slurm", "local"]


def check(cluster: Cluster, storage: str | None) -> None:
    """Look for what is needed, before anything is written.

    Args:
        cluster: "local" runs the same jobs as processes of this machine, to try them.
        storage: the database URL; jobs of several machines need one.

    Raises:
        InputError: submitit is not installed, or the study would be a file.
    """
    try:
        import submitit
    except ImportError as error:
        raise InputError("Jobs of Slurm need submitit: pip install 'autopeft[slurm]'.") from error
    if cluster == "slurm" and storage is None:
        raise InputError("Jobs run on several machines, which share a study through a database: give --storage.")
    if cluster == "slurm" and not submitit.SlurmExecutor.affinity() > 0:
        raise InputError("There is no Slurm on this machine: `sbatch` is not on the path.")


def submit(
    command: Sequence[str],
    n: int,
    folder: str | Path,
    options: Mapping[str, Any],
    environment: Mapping[str, str],
    cluster: Cluster = "slurm",
) -> tuple[str, ...]:
    """Queue `n` jobs that run `command`; returns their ids.

    Args:
        folder: of the jobs' files and logs; every machine sees it.
        options: submitit's, such as ``slurm_partition``, ``gpus_per_node`` or ``timeout_min``.
        environment: of the jobs. It is handed on by the queue and written into no file: it may name the database.

    Raises:
        InputError: an option is not known, or the queue refuses the jobs.
    """
    import submitit
    from submitit.helpers import CommandFunction

    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(name="autopeft", **options)
        # Jobs inherit the environment of the process that queues them, so that nothing of it has to stand in a script.
        with _environment(environment):
            jobs = [executor.submit(CommandFunction(list(command))) for _ in range(n)]
    except (NameError, TypeError, ValueError, RuntimeError, submitit.core.utils.FailedJobError) as error:
        raise InputError(f"The jobs cannot be submitted: {' '.join(str(error).split())}") from error
    return tuple(str(job.job_id) for job in jobs)


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """This process's environment for the block, which jobs inherit; nothing in the folder of the call is imported."""
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update({**wanted, "PYTHONSAFEPATH": "1"})
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
