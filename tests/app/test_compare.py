"""The columns belong to the run that was started last."""

import pytest

gr = pytest.importorskip("gradio", reason="no gradio: pip install 'timm-interpretable[test]'")
from timm_interpretable.app.components import Sent  # noqa: E402
from timm_interpretable.app.images import read_picture  # noqa: E402
from timm_interpretable.app.render import Style  # noqa: E402
from timm_interpretable.app.service import Service  # noqa: E402
from timm_interpretable.app.sessions import Session  # noqa: E402
from timm_interpretable.app.settings import Settings  # noqa: E402
from timm_interpretable.app.tabs import compare  # noqa: E402
from timm_interpretable.attr import METHODS, Cost, Method, register_method  # noqa: E402

from .conftest import SAMPLES  # noqa: E402

OWN, RISE = "facnn_resnet18.cifar10:class_map", "facnn_resnet18.cifar10:rise"


@pytest.fixture
def service():
    service = Service(Settings(fast_workers=1, slow_workers=1))
    yield service
    service.close()


@pytest.fixture
def session(service, settings):
    session = Session("someone", service.sessions.pictures)
    session.show(Sent(read_picture(SAMPLES["cat"], settings), None))
    return session


def begun(service, session, text):
    """A run that has yielded once."""
    run = compare.run(service, session, [text], "", Style())
    return run, next(run)


def test_an_older_run_ends_without_a_word(service, session):
    """gradio gives None to all outputs for a generator that yields nothing, and says again what was yielded last."""
    older, first = begun(service, session, RISE)
    assert "ti-wait" in first[0]
    newer, _ = begun(service, session, OWN)
    said = list(older)
    assert said[-1] == [gr.skip()] * (compare.COLUMNS + 1)
    assert all("article" not in str(update) for update in said)
    *_, last = newer
    assert "article" in last[0]


def test_a_run_that_never_said_anything_leaves_the_columns_alone(service, session, monkeypatch):
    begin = session.begin

    def overtaken(tab):
        this = begin(tab)
        begin(tab)
        return this

    monkeypatch.setattr(session, "begin", overtaken)
    run = compare.run(service, session, [RISE], "", Style())
    assert list(run) == [[gr.skip()] * (compare.COLUMNS + 1)]


def test_a_stopped_run_says_so(service, session):
    run, _ = begun(service, session, RISE)
    session.stop("compare")
    *_, last = run
    assert "RISE was stopped" in last[0]
    assert last[1:] == [gr.skip()] * compare.COLUMNS


def test_the_runs_of_a_page_end_when_it_is_closed(service, session):
    run, _ = begun(service, session, RISE)
    session.close()
    assert list(run)[-1] == [gr.skip()] * (compare.COLUMNS + 1)
    assert service.engine.jobs.busy() == 0
    with pytest.raises(ValueError, match="choose one"):
        session.picture()


def test_a_method_that_fails_says_so_and_leaves_the_others(service, session):
    def broken(context):
        raise TypeError("this model has no middle.")

    register_method(Method("broken", "broken method", Cost.GRADIENT, broken))
    try:
        updates = list(compare.run(service, session, [OWN.replace("class_map", "broken"), OWN], "", Style()))
    finally:
        del METHODS["broken"]
    assert "broken method could not be computed. this model has no middle." in str([update[0] for update in updates])
    assert "article" in str([update[1] for update in updates])
