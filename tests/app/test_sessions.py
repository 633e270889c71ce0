"""What the server keeps of open pages: their pictures within bounds, and their files until they are closed."""

from types import SimpleNamespace

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="no gradio: pip install 'timm-interpretable[test]'")
from timm_interpretable.app import sessions as module
from timm_interpretable.app.components import Sent
from timm_interpretable.app.images import Picture, PictureError
from timm_interpretable.app.sessions import Sessions


def page(name: str) -> SimpleNamespace:
    return SimpleNamespace(session_hash=name)


def sent(side: int = 8, file: object = None) -> Sent:
    return Sent(Picture(Image.new("RGB", (side, side)), f"{side}"), None if file is None else str(file))


def test_each_page_has_its_own_pictures():
    sessions = Sessions(10_000, 100)
    sessions.of(page("a")).show(sent(8))
    sessions.of(page("a")).show(sent(9), "first")
    sessions.of(page("b")).show(sent(10))
    assert sessions.of(page("a")).picture().rgb.width == 8
    assert sessions.of(page("a")).picture("first").rgb.width == 9
    assert sessions.of(page("b")).picture().rgb.width == 10
    sessions.of(page("b")).show(None)
    with pytest.raises(PictureError, match="please choose one"):
        sessions.of(page("b")).picture()
    sessions.close(page("a"))
    assert (len(sessions.pictures), sessions.pictures.nbytes) == (0, 0)


def test_pictures_stay_within_their_bound():
    sessions = Sessions(3 * 8 * 8 * 3, 100)
    for name in "abcd":
        sessions.of(page(name)).show(sent(8))
    assert [sessions.of(page(name)).has_picture() for name in "abcd"] == [False, True, True, True]


def test_files_go_with_the_last_page_that_has_sent_them(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_IN_TRANSIT", 0.0)
    sessions, file = Sessions(10_000, 100), tmp_path / "equal.png"
    file.touch()
    for name in "ab":
        sessions.of(page(name)).show(sent(8, file))
    sessions.close(page("a"))
    assert file.exists()
    sessions.close(page("b"))
    assert not file.exists()
    sessions.close(page("b"))  # again, and a page that was never seen


def test_a_file_that_another_page_may_be_about_to_read_is_left(tmp_path):
    sessions, file = Sessions(10_000, 100), tmp_path / "new.png"
    file.touch()
    sessions.of(page("a")).show(sent(8, file))
    sessions.close(page("a"))
    assert file.exists()


def test_only_the_latest_run_of_a_tab_goes_on():
    session = Sessions(10_000, 100).of(page("a"))
    first, other = session.begin("compare"), session.begin("faces")
    assert not session.overtaken("compare", first)
    second = session.begin("compare")
    assert session.overtaken("compare", first)
    assert not session.overtaken("compare", second)
    session.stop("compare")
    assert (first.stopped, second.stopped, other.stopped) == (False, True, False)
    session.close()
    assert session.overtaken("faces", other)
