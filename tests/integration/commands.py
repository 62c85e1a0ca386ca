"""The command `ecr-catalog` in this process: as a shell meets it, without the start-up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from ecr_catalog_pipeline.cli import cli, run


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: object
    out: str
    err: str


Command = Callable[..., Done]


def command_in(
    folder: Path,
    environment: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Command:
    """Give the command, run in a folder."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)

    def command(*arguments: str | Path) -> Done:
        monkeypatch.setattr("sys.argv", ["ecr-catalog", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(cli)
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        assert "defect of ours" not in said.err, said.err
        return Done(ended.value.code, said.out, said.err)

    return command
