"""The columns belong to the run that was started last."""

from types import SimpleNamespace

import pytest

gr = pytest.importorskip("gradio", reason="gradio is not installed (extra `page`)")
from timm_interpretable.app.images import read_picture  # noqa: E402
from timm_interpretable.app.render import Style  # noqa: E402
from timm_interpretable.app.service import Service  # noqa: E402
from timm_interpretable.app.settings import Settings  # noqa: E402
from timm_interpretable.app.tabs import compare  # noqa: E402

from .conftest import SAMPLES  # noqa: E402

OWN, RISE = "facnn_resnet18.cifar10:class_map", "facnn_resnet18.cifar10:rise"


@pytest.fixture
def service(settings):
    service = Service(Settings(fast_workers=1, slow_workers=1))
    service.shelf.put("someone", "picture", read_picture(SAMPLES["cat"], settings))
    yield service
    service.close()


def begun(service, text):
    """A run that has yielded once."""
    run = compare.run(service, [text], "", Style(), SimpleNamespace(session_hash="someone"))
    return run, next(run)


def test_an_older_run_ends_without_a_word(service):
    """gradio gives None to all outputs for a generator that yields nothing, and says again what was yielded last."""
    older, first = begun(service, RISE)
    assert "ti-wait" in first[0]
    newer, _ = begun(service, OWN)
    said = list(older)
    assert said[-1] == [gr.skip()] * (compare.COLUMNS + 1)
    assert all("article" not in str(update) for update in said)
    *_, last = newer
    assert "article" in last[0]


def test_a_run_that_never_said_anything_leaves_the_columns_alone(service):
    run = compare.run(service, [RISE], "", Style(), SimpleNamespace(session_hash="someone"))
    begin = service.turns.begin

    def overtaken(session, tab):
        turn = begin(session, tab)
        begin(session, tab)
        return turn

    service.turns.begin = overtaken
    assert list(run) == [[gr.skip()] * (compare.COLUMNS + 1)]


def test_a_stopped_run_says_so(service):
    run, _ = begun(service, RISE)
    service.turns.stop("someone", "compare")
    *_, last = run
    assert "RISE was stopped" in last[0]
    assert last[1:] == [gr.skip()] * compare.COLUMNS
