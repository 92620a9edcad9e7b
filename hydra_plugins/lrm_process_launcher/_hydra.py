"""All that depends on how Hydra works inside: composing jobs, and the end of a multirun."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lrm_lightning.runs.files import quoted

if TYPE_CHECKING:
    from hydra_plugins.lrm_process_launcher._plan import Job

# Hydra settings that belong to the sweep or that we set ourselves; all others hold for the job too.
_OF_THE_SWEEP = re.compile(r"[+~]*hydra[./](sweeper|launcher|sweep|mode|run)\b")


class Composer:
    """Composes the jobs' configurations, each once, and the command lines that compose them again.

    It takes the place of the context's config loader: Hydra's basic sweeper composes every job to
    check it, and the launcher needs the same again, which takes a tenth of a second a job.
    """

    def __init__(self, master: DictConfig, context: HydraContext) -> None:
        self._master = master
        self._loader = context.config_loader
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        context.config_loader = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._loader, name)

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: Sequence[str]
    ) -> DictConfig:
        """Compose a job for the sweeper, and keep the result."""
        config = self._loader.load_sweep_config(master_config, list(sweep_overrides))
        self._composed[tuple(sweep_overrides)] = config
        _tell(f"{len(self._composed)} jobs composed")  # hundreds take a minute
        return config

    @contextmanager
    def job(self, number: int, overrides: Sequence[str]) -> Iterator[tuple[DictConfig, Path]]:
        """A job's configuration without the ``hydra`` node, and its run directory.

        Within this context ``${hydra:...}`` resolves as it will in the job.
        """
        config = self._composed.pop(tuple(overrides), None)
        _tell("")
        if config is None:
            config = self._loader.load_sweep_config(self._master, list(overrides))
        before = HydraConfig.instance().cfg
        with open_dict(config), read_write(config.hydra), read_write(config.hydra.runtime):
            config.hydra.job.num, config.hydra.job.id = number, str(number)
            HydraConfig.instance().set_config(config)
            try:
                run_dir = OmegaConf.select(config, "hydra.run.dir", throw_on_missing=True)
                directory = Path.cwd() / run_dir
                config.hydra.runtime.output_dir = str(directory)
                HydraConfig.instance().set_config(config)
                keys = [str(key) for key in config if key != "hydra"]
                yield OmegaConf.masked_copy(config, keys), directory
            finally:
                HydraConfig.instance().cfg = before

    def command_line(self, module: str, job: "Job") -> list[str]:
        """``python -m <module> ...``, which composes the job's configuration and runs it alone."""
        hydra = self._master.hydra
        command = [sys.executable, "-m", module]
        options = {"main": "--config-path", "command-line": "--config-dir"}
        for source in hydra.runtime.config_sources:
            if source.provider in options:
                scheme = "" if source.schema == "file" else f"{source.schema}://"
                command += [options[source.provider], scheme + source.path]
        if hydra.job.config_name is not None:
            command += ["--config-name", hydra.job.config_name]
        # Not resolved: ${method.name} in them is for the job to resolve.
        given = OmegaConf.to_container(hydra.overrides.hydra, resolve=False)
        assert isinstance(given, list)
        command += [line for line in given if not _OF_THE_SWEEP.match(line)]
        command += job.overrides
        if job.on_gpu:  # else a job whose GPU fails would train on the processor in silence
            command.append("++trainer.accelerator=gpu")
        command += ["hydra.mode=RUN", f"hydra.run.dir={quoted(str(job.directory))}"]
        return [*command, f"hydra.job.num={job.number}", f"hydra.job.id={job.number}"]


def call_after_multirun(context: HydraContext, function: Callable[[], None]) -> None:
    """Have Hydra call a function when the sweeper has returned, after the user's own callbacks.

    Sweepers may launch several batches, and no plugin is told which is the last.
    """

    class AfterMultirun(Callback):
        def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
            function()

    # In front: the event goes through the list backwards, and the function may end the process.
    context.callbacks.callbacks.insert(0, AfterMultirun())


def _tell(text: str) -> None:
    """Show a text on a terminal, in place of the one before."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}\r")
