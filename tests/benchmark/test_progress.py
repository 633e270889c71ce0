"""A sign of life every ten seconds, also where nobody sees a bar."""

import pytest

from timm_interpretable.benchmark import progress as module
from timm_interpretable.benchmark.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_ten_seconds(clock, capsys):
    with Progress(total=10) as progress:
        progress.begin("net, RISE, boxed")
        for second in range(1, 26):
            clock[0] = float(second)
            progress.passes(second, 500)
        progress.advance(4)
    assert capsys.readouterr().err.splitlines() == [
        "0 of 10 steps; net, RISE, boxed: pass 11 of 500",
        "0 of 10 steps; net, RISE, boxed: pass 21 of 500",
    ]
    assert progress.done == 4


def test_one_of_several_processes_speaks(clock, capsys):
    with Progress(total=10, shown=False) as progress:
        progress.begin("net, RISE, boxed")
        clock[0] = 100.0
        progress.within("pass 3")
        progress.say("it failed")
    assert capsys.readouterr().err == ""
