"""What the fork server imports first, and nobody else: it makes that process fit to be forked."""

import os

from hydra_plugins.lrm_process_launcher._processes import job_environment

# Signals of the terminal are for the launcher, which lets the jobs save what they have.
os.setsid()
# Before the imports: Lightning reads its rank in one, and numpy starts threads, which forks lack.
_environment = job_environment(os.environ, {"OPENBLAS_NUM_THREADS": "1"})
os.environ.clear()
os.environ.update(_environment)
# What an import says, it would say to the terminal; what goes wrong in it will again in the job.
_nowhere = os.open(os.devnull, os.O_WRONLY)
os.dup2(_nowhere, 1)
os.dup2(_nowhere, 2)
