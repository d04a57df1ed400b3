"""Options of the commands that read data sets: what help says of them, and where they are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from convscope.cli import app
from convscope.data.sets import NAMES
from tests.cli.conftest import Call


@pytest.mark.parametrize("command", ["check", "train", "evaluate"])
def test_help_lists_every_set_by_name(call: Call, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    words = re.findall(r"[\w-]+", call(command, "--help").out)
    assert {name.removeprefix("torchvision:") for name in NAMES} <= set(words)
    assert "torchvision" in words


def test_no_command_takes_from_another() -> None:
    folder = Path(app.__file__).parent
    commands = {command.callback.__name__ for command in app.app.registered_commands if command.callback is not None}
    assert {"train", "check", "evaluate"} <= commands
    for name in commands:
        tree = ast.parse((folder / f"{name}.py").read_text("utf-8"))
        taken = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not taken & {f"convscope.cli.{other}" for other in commands}, name
