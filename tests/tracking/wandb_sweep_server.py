"""A W&B server that also has a sweep: what ``wandb sweep`` and ``wandb agent`` call, no more."""

import itertools
import json
import runpy
from pathlib import Path
from typing import Any

import yaml

WandbServer = runpy.run_path(str(Path(__file__).with_name("wandb_server.py")))["WandbServer"]
PROJECT = {"id": "p", "name": "lrm_lightning", "entity": {"id": "e", "name": "us"}}


class SweepServer(WandbServer):
    """Gives an agent the points of a grid, one after the other, and sends it home.

    Attributes:
        sweep: The file that ``wandb sweep`` uploaded.
        given: The parameters, by the id of the run that they were given to.
        ended: The runs that an agent had and has no more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sweep: dict[str, Any] = {}
        self.given: dict[str, dict[str, Any]] = {}
        self.ended: list[str] = []
        self._points: list[dict[str, Any]] = []

    def _on_UpsertSweep(self, values: dict[str, Any]) -> Any:  # noqa: N802
        self.sweep = yaml.safe_load(values["config"])
        assert self.sweep["method"] == "grid"
        parameters = self.sweep["parameters"]
        choices = itertools.product(*(parameters[key]["values"] for key in parameters))
        self._points = [dict(zip(parameters, each, strict=True)) for each in choices]
        sweep = {"name": "sweep1", "project": PROJECT}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def _on_SweepWithRuns(self, values: dict[str, Any]) -> Any:  # noqa: N802
        assert (values["entity"], values["project"]) == ("us", "lrm_lightning")
        assert values["sweep"] == "sweep1"
        sweep = {"name": "sweep1", "config": yaml.dump(self.sweep), "runs": {"edges": []}}
        return {"project": {"sweep": sweep}}

    def _on_CreateAgent(self, values: dict[str, Any]) -> Any:  # noqa: N802
        assert values["sweep"] == "sweep1"
        return {"createAgent": {"agent": {"id": "agent1"}}}

    def _on_Heartbeat(self, values: dict[str, Any]) -> Any:  # noqa: N802
        running = json.loads(values["runState"])
        self.ended = [name for name in self.given if name not in running]
        commands = [] if running else [self._next()]
        agent = {"id": values["id"]}
        return {"agentHeartbeat": {"agent": agent, "commands": json.dumps(commands)}}

    def _next(self) -> dict[str, Any]:
        if not self._points:
            return {"type": "exit"}
        name = f"agents{len(self.given) + 1}"
        self.given[name] = self._points.pop(0)
        arguments = {key: {"value": value} for key, value in self.given[name].items()}
        return {
            "type": "run",
            "run_id": name,
            "program": self.sweep["program"],
            "args": arguments,
        }
