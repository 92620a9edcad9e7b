"""config.yaml and model.json: what they say, or a short line that they are damaged."""

import json

import pytest
import yaml

from lrm_lightning.errors import UserError
from lrm_lightning.runs.settings import read_settings, write_settings

WHOLE = {
    "run_id": "0a1b2c3d",
    "network": {"_target_": "lrm_lightning.models.ResNet", "widths": [4, 4, 8, 8]},
    "identity": {"seed": 0},
    "config": {
        "checkpoint": {"select": "last"},
        "method": {"name": "pgd"},
        "data": {"name": "digits"},
        "attack": {"eps": 1e-05},
    },
}
BOMB = "a0: &a0 [lol]\n" + "".join(
    f"a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 9)}]\n" for k in range(12)
)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "config.yaml"
    widths = WHOLE["network"]["widths"]
    write_settings(path, WHOLE | {"again": [widths, widths]})
    assert read_settings(path) == WHOLE | {"again": [widths, widths]}
    assert "*" not in path.read_text()  # no aliases
    (tmp_path / "model.json").write_text(json.dumps(WHOLE))
    assert read_settings(tmp_path / "model.json") == WHOLE


def test_what_older_versions_wrote_is_read(tmp_path):
    content = {"network": WHOLE["network"], "identity": {}, "config": WHOLE["config"]}
    content["network"] |= {"again": content["network"]["widths"]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    assert "*" in (tmp_path / "config.yaml").read_text()
    assert read_settings(tmp_path / "config.yaml") == content


def test_no_file_is_told_apart_from_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_settings(tmp_path / "config.yaml")


def changed(*keys, value):
    content = json.loads(json.dumps(WHOLE))
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    return yaml.safe_dump(content)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1",
        "network: [",
        "network:\t1",
        "\x00",
        "config: " + "[" * 100_000,
        "config: " + "{a: " * 2000 + "1" + "}" * 2000,
        yaml.safe_dump(WHOLE) + BOMB,
        f"{BOMB}network: {{_target_: *a12}}\nconfig: {{checkpoint: {{select: *a12}}}}\n",
        "network: &a {b: *a}\nconfig: {checkpoint: {select: last}}\n",
        "network: {a: !!int ''}\nconfig: {checkpoint: {select: last}}\n",
        "network: {a: !!timestamp x}\nconfig: {checkpoint: {select: last}}\n",
        changed("network", value="text"),
        changed("config", value="text"),
        changed("config", "data", value="text"),
        changed("config", "method", value=["text"]),
        changed("config", "attack", value="text"),
        changed("config", "data", "name", value=""),
        changed("config", "data", "name", value=["a"]),
        changed("config", "checkpoint", value="text"),
        changed("config", "checkpoint", "select", value="../../elsewhere"),
        changed("identity", value=None),
        changed("sha256", value="0" * 64),
    ],
    ids=lambda text: text[:20].split("\n")[0],
)
def test_damage_is_one_short_line(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="is damaged") as error:
        read_settings(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 150
