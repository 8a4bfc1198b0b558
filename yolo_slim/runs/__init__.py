"""The folder of a run: which experiment it belongs to, who works in it now, which of its stages build on one another.

Nothing here needs torch but the look into a checkpoint for the image side that is given nowhere else.
"""

from __future__ import annotations

STAGES = (
    "original",
    "reshaped",
    "sparse",
    "pruned",
    "recovered",
    "finetuned",
    "compressed",
    "plan",
    "trial",
    "sensitivity",
    "sweep",
    "export",
    "bench",
    "report",
)
"""The folders that stages write, below that of the run. Anything else there is the user's."""

LOG = "log.txt"
"""What commands have said, in the folder of the run."""

BARE = "slim"
"""What stands in a table for a slim file that no run has made."""

LONGEST = 100
"""Characters of a run's name that is made of a file's."""

WEIGHTS = STAGES[:7]
"""The stages that write a detector, in order."""

SLIM = WEIGHTS[3:]
"""Those that write a slim one."""
