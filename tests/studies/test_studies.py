"""The entry point of the studies."""

from __future__ import annotations

import importlib

import pytest

from worldmodel.studies.__main__ import STUDIES, main
from worldmodel.studies.study import Study


def test_help_lists_every_study(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"]):
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert all(f"  {name} " in printed for name in STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_flags_and_a_result_file(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = importlib.import_module(f"worldmodel.studies.{name}").STUDY
    assert isinstance(study, Study)
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    assert exit_.value.code in (0, None)
    assert "--out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["casual"], "no study is called 'casual': did you mean 'causal'?"),
        (["x"], "use one of causal"),
        (["bench", "--out", "bench.txt"], "out is bench.txt: it must be a .json file"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
