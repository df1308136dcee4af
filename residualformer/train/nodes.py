"""How many processes a training may have, and its machines in a Slurm job: srun starts the same command on each, and
their agents meet. Needs no torch.
"""

from __future__ import annotations

import os
import socket
import sys
import uuid
from typing import NamedTuple

from residualformer.errors import UserError

MEETING = "RESIDUALFORMER_NODES"  # in the environment of the command on each machine: where the agents meet, a name
PORTS = range(20000, 30000)


class Nodes(NamedTuple):
    """The machines of a training, seen from one of them.

    Attributes:
        total: how many there are.
        number: of this machine; 0 is the one whose process is rank 0's agent.
        address: of this machine, for the others.
        meeting: address and port where the agents meet.
        name: of this start of the training, the same on all machines.
    """

    total: int = 1
    number: int = 0
    address: str = "localhost"
    meeting: str = "localhost:0"
    name: str = ""


def spread(count: int) -> Nodes:
    """Return the machines on which this command runs; where it runs on one of several alone, replace it by srun.

    Raises:
        UserError: there is no Slurm job.
    """
    if count == 1:
        return Nodes()
    address = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    if MEETING in os.environ:
        meeting, name = os.environ[MEETING].split()
        return Nodes(count, int(os.environ["SLURM_NODEID"]), address, meeting, name)
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        raise UserError(f"--nodes {count} needs a job of Slurm with as many machines: start it by utils/slurm.sh")
    os.environ[MEETING] = f"{address}:{PORTS[int(job) % len(PORTS)]} {uuid.uuid4().hex[:12]}"
    # A machine whose ranks have saved and ended must not end the others before they have.
    words = ["srun", f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1", "--kill-on-bad-exit=0"]
    os.execvp("srun", [*words, sys.executable, *sys.argv])


def check_ranks(world: int, batches_per_update: int) -> None:
    """Raise UserError if an update has no batch for some of `world` ranks."""
    if world > batches_per_update:
        raise UserError(
            f"{world} processes, but an update has train.batches_per_update = {batches_per_update} batches: start at "
            f"most {batches_per_update} (--nproc), or set train.batches_per_update={world} and a smaller "
            f"data.max_batch_s, so that an update holds as much as before"
        )
