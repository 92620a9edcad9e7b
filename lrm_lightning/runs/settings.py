"""``config.yaml`` of a run and ``model.json`` of an export, which may come from anybody."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, JsonValue, ValidationError

from lrm_lightning.errors import UserError
from lrm_lightning.runs.files import write_text
from lrm_lightning.runs.integrity import opened, sealed
from lrm_lightning.runs.records import Name, Text, explained, printable

# Of aliases of aliases a short file makes lists of any length; we write none, version 0.1 a few.
ALIASES_AT_MOST = 16


class _Checkpoint(BaseModel):
    select: Literal["last", "best"]


class _Named(BaseModel):
    name: Name = "unnamed"


class _Config(BaseModel):
    checkpoint: _Checkpoint
    method: _Named = _Named()
    data: _Named = _Named()
    attack: dict[str, JsonValue] = {}


class _Settings(BaseModel):
    """What is read of either file; the rest may be anything."""

    network: dict[str, JsonValue]
    config: _Config
    identity: dict[str, JsonValue] = {}
    run_id: Text = ""
    training: dict[str, JsonValue] = {}
    files: dict[str, str] = {}
    weights_sha256: Text = ""


class _Loader(yaml.SafeLoader):
    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401
        self.aliases += self.check_event(yaml.AliasEvent)
        if self.aliases > ALIASES_AT_MOST:
            raise yaml.YAMLError("too many aliases")
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def write_settings(path: Path, content: Mapping[str, Any]) -> None:
    """Replace ``path``, a YAML file, by ``content`` and its hash in one step."""
    write_text(path, yaml.dump(sealed(content), Dumper=_Dumper, sort_keys=False))


def read_settings(path: Path) -> dict[str, Any]:
    """What the file says: ``network``, ``config`` and, of one of this version, ``run_id``.

    Raises:
        FileNotFoundError: If there is no file.
        UserError: If it is damaged or no such file, in one line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        # YAML takes JSON's 1e-05 for a text.
        content = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)
        _Settings.model_validate(content, strict=True)
        return opened(content)
    except FileNotFoundError:
        raise
    except Exception as error:  # any damage: PyYAML raises a dozen types
        why = explained(error) if isinstance(error, ValidationError) else printable(str(error))
        raise UserError(f"{path} is damaged ({why[:120]})") from error
