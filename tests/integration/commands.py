"""The command `ecr-catalog` in this process: as a shell meets it, without the start-up."""

from __future__ import annotations

import os
import subprocess
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


@dataclass(frozen=True)
class InProcess:
    """Runs the command here, with the folder, environment, streams and end of a process."""

    monkeypatch: pytest.MonkeyPatch
    capfd: pytest.CaptureFixture[str]

    def __call__(
        self, *arguments: str, folder: Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        with self.monkeypatch.context() as changed, Path(os.devnull).open() as nothing:
            for name in list(os.environ):
                changed.delenv(name)
            for name, value in environment.items():
                changed.setenv(name, value)
            changed.chdir(folder)
            changed.setattr("sys.stdin", nothing)
            changed.setattr("sys.argv", ["ecr-catalog", *arguments])
            self.capfd.readouterr()
            with pytest.raises(SystemExit) as ended:
                run(cli)
            said = self.capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess(arguments, ended.value.code, said.out, said.err)


def command_in(
    folder: Path,
    environment: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Command:
    """Give the command, run in a folder."""
    in_process = InProcess(monkeypatch, capfd)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)

    def command(*arguments: str | Path) -> Done:
        done = in_process(*map(str, arguments), folder=Path.cwd(), environment=dict(os.environ))
        assert "Traceback" not in done.stderr
        assert "defect of ours" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return command
