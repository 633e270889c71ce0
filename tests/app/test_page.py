"""The page in Chromium, as somebody uses it."""

import base64
import io
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'timm-interpretable[test]'")
from .conftest import SAMPLES  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
WAIT = 60_000  # milliseconds; the machine may be busy


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = CHROMIUM or playwright.chromium.executable_path
        if not Path(chromium).is_file():
            pytest.skip("no browser: playwright install chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *_CAMERA])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, served):
    contexts = []

    def opened(width: int = 1440, height: int = 900, theme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
        context.set_default_timeout(WAIT)
        contexts.append(context)
        page = context.new_page()
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        # nothing may be fetched from elsewhere
        page.on("request", lambda r: r.url.startswith((served.url, "data:", "blob:")) or page.problems.append(r.url))
        page.goto(f"{served.url}/?__theme={theme}")
        page.get_by_role("button", name="Example: golf ball").wait_for()
        return page

    yield opened
    problems = [problem for context in contexts for page in context.pages for problem in page.problems]
    problems += [p.url for c in contexts for p in c.pages if "[object" in p.locator("body").inner_text()]
    for context in contexts:
        context.close()
    assert not problems


def upload(page, file) -> None:
    page.locator("#ti-picture input[type=file]").set_input_files(file)


def columns(page):
    return page.locator(".ti-result article")


def explained(page, name: str):
    """Waits until the first column explains that class, and all three are there."""
    page.locator(".ti-result").first.locator(f'.ti-bar[aria-pressed="true"][data-class="{name}"]').wait_for()
    sync_api.expect(columns(page)).to_have_count(3, timeout=WAIT)


def test_upload_compare_change_class_depth_download(open_page):
    page = open_page()
    upload(page, str(SAMPLES["golf ball"]))
    explained(page, "golf ball")
    alts = [image.get_attribute("alt") for image in page.locator(".ti-heat").all()]
    assert all("golf ball" in alt and "strongest at the" in alt for alt in alts)
    assert page.locator(".ti-exact").count() == 2  # the third is Grad-CAM
    assert "This is" in page.locator(".ti-sum").first.inner_text()

    # one screen, no scrolling; columns of equal width that begin at the same height
    size = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert size[0] <= 1440
    assert size[1] <= 900
    boxes = [box.bounding_box() for box in page.locator(".ti-view").all()]
    assert len({round(box["y"]) for box in boxes}) == 1
    assert len({round(box["width"]) for box in boxes}) == 1
    bottom = max(box.bounding_box()["y"] + box.bounding_box()["height"] for box in page.locator(".ti-opacity").all())
    assert bottom <= 900

    # another class, by the list of all and by a bar
    before = page.locator(".ti-heat").first.get_attribute("src")
    page.locator("#ti-search input").click()
    page.keyboard.type("tench")
    page.get_by_role("option", name="tench", exact=True).click()
    explained(page, "tench")
    assert page.locator(".ti-heat").first.get_attribute("src") != before
    page.locator('.ti-result >> nth=1 >> .ti-bar[data-class="golf ball"]').click()
    explained(page, "golf ball")
    assert page.locator(".ti-heat").first.get_attribute("src") == before

    # opacity is the page's own matter
    slider = page.get_by_label("Opacity of the heat in column 1")
    slider.focus()
    page.keyboard.press("Home")
    opacities = page.evaluate("[...document.querySelectorAll('.ti-heat')].map(e => getComputedStyle(e).opacity)")
    assert opacities == ["0", "0.85", "0.85"]

    # depth, and its animation
    page.get_by_role("tab", name="Through depth").click()
    page.locator(".ti-strip .ti-now", has_text="block 8").wait_for()
    page.locator("#ti-depth input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    page.locator(".ti-strip .ti-now", has_text="block 7").wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the animation (GIF)").click()
    assert download.value.suggested_filename == "through-depth.gif"
    animation = Image.open(download.value.path())
    assert (animation.format, animation.n_frames) == ("GIF", 8)

    # the other tabs, with the same picture; none of them has drawn itself unasked
    assert not page.locator(".ti-triple, .ti-curve, .ti-decision").count()
    page.get_by_role("tab", name="Why A rather than B").click()
    page.locator(".ti-triple section").nth(2).wait_for()
    assert "golf ball rather than" in page.locator(".ti-triple h3").nth(2).inner_text()
    page.get_by_role("tab", name="Remove pixels").click()
    page.locator(".ti-curve").wait_for()
    page.locator("#ti-share input[type=range]").focus()
    page.keyboard.press("End")
    page.get_by_text("100 % of the pixels are black").wait_for()
    page.get_by_role("tab", name="About").click()
    page.get_by_text("reconstruction from the abstract").first.wait_for()
    assert not page.locator("#ti-side").is_visible()


_COPY = """async address => {
  const blob = await (await fetch(address)).blob();
  await navigator.clipboard.write([new ClipboardItem({'image/png': blob})]);
}"""


def test_paste_and_camera(open_page):
    page = open_page()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    png = io.BytesIO()
    Image.open(SAMPLES["golf ball"]).save(png, "PNG")
    page.evaluate(_COPY, f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}")
    picture = page.locator("#ti-picture")
    picture.get_by_label("Paste from clipboard").click()
    explained(page, "golf ball")

    page.reload()
    picture.get_by_label("Capture from camera").click()
    picture.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#ti-picture video')?.videoWidth > 0")  # there is something to see
    picture.get_by_label("capture photo").click()
    sync_api.expect(columns(page)).to_have_count(3, timeout=WAIT)
    assert page.locator(".ti-notes").count() == 0


def test_signed_and_colours_change_the_picture(open_page):
    page = open_page()
    page.get_by_role("button", name="Example: parachute").click()
    explained(page, "parachute")
    heat = page.locator(".ti-heat").nth(1)
    signed = heat.get_attribute("src")
    page.locator("#ti-evidence label", has_text="only for").click()
    page.wait_for_function("old => document.querySelectorAll('.ti-heat')[1].src !== old", arg=signed)
    scale = page.locator(".ti-scale").nth(1).inner_text().split()
    assert float(scale[0]) == 0


def test_a_slow_method_shows_progress_and_can_be_stopped(open_page, served):
    page = open_page()
    page.get_by_role("button", name="Example: cat").click()
    explained(page, "cat")
    page.get_by_label("Explanation 3").click()
    page.get_by_role("option", name="FA-CNN, Imagenette: RISE").click()
    page.locator(".ti-wait progress").wait_for()
    page.get_by_text(re.compile(r"RISE: \d+ %")).wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text(re.compile("RISE was stopped")).wait_for()
    page.wait_for_timeout(1500)
    assert served.service.engine.jobs.busy() == 0


def test_a_newer_choice_takes_the_place_of_a_slow_one(open_page, served):
    page = open_page()
    page.get_by_role("button", name="Example: cat").click()
    explained(page, "cat")
    for name in ("FA-CNN, Imagenette: RISE", "FA-CNN, CIFAR-10: class map"):
        page.get_by_label("Explanation 3").click()
        page.get_by_role("option", name=name, exact=True).click()
        page.locator(".ti-result").nth(2).locator(".ti-wait, article").first.wait_for()
        page.wait_for_timeout(700)
    page.locator('.ti-result article[aria-label="FA-CNN, CIFAR-10: class map"]').nth(1).wait_for()
    page.wait_for_timeout(2500)  # what the old run still says must not arrive
    assert page.locator('.ti-result article[aria-label="FA-CNN, CIFAR-10: class map"]').count() == 2
    for _ in range(100):  # the old run ends after its next few masks
        if not served.service.engine.jobs.busy():
            break
        page.wait_for_timeout(200)
    assert served.service.engine.jobs.busy() == 0


def test_examples_outlive_the_pages_that_used_them(open_page, served, monkeypatch):
    monkeypatch.setattr("timm_interpretable.app.sessions._IN_TRANSIT", 0.0)
    sessions = served.service.sessions
    before = set(sessions._open)
    page = open_page()
    page.get_by_role("button", name="Example: parachute").click()
    explained(page, "parachute")
    (key,) = set(sessions._open) - before
    page.close()
    page = open_page()
    for _ in range(100):
        if key not in sessions._open:
            break
        page.wait_for_timeout(200)
    assert key not in sessions._open
    page.reload()
    page.get_by_role("button", name="Example: parachute").wait_for()
    page.wait_for_timeout(1000)
    widths = page.evaluate("[...document.querySelectorAll('.ti-example img')].map(image => image.naturalWidth)")
    assert len(widths) == 3
    assert all(widths)


def test_wrong_files_get_a_sentence(open_page):
    page = open_page()
    upload(page, {"name": "holiday.png", "mimeType": "image/png", "buffer": b"this is no picture"})
    page.get_by_text("This file cannot be used: not an image").first.wait_for()
    good = io.BytesIO()
    Image.open(SAMPLES["golf ball"]).save(good, "PNG")
    page.reload()
    page.get_by_role("button", name="Example: golf ball").wait_for()
    upload(page, {"name": "after.png", "mimeType": "image/png", "buffer": good.getvalue()})  # the page still works
    explained(page, "golf ball")


def test_faces(open_page):
    page = open_page()
    page.get_by_role("tab", name="Faces").click()
    page.get_by_role("button", name="Example: two drawn people").click()
    page.locator("#ti-face-second img").wait_for()
    page.wait_for_timeout(1500)
    page.locator("label", has_text="CorrRISE").click()
    page.get_by_role("button", name="Compare the faces").click()
    page.locator(".ti-decision").wait_for()
    assert re.search(r"Cosine .?0\.\d{3}", page.locator(".ti-decision").inner_text())
    assert page.locator(".ti-faces img").count() == 4


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_on_a_phone(open_page, theme):
    page = open_page(390, 844, theme)
    page.get_by_role("button", name="Example: golf ball").click()
    explained(page, "golf ball")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for view in page.locator(".ti-view").all():
        assert view.bounding_box()["width"] >= 300
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", dark)[:3])) < 200) == (theme == "dark")


def test_everything_can_be_reached_by_keyboard(open_page):
    page = open_page()
    page.get_by_role("button", name="Example: golf ball").click()
    explained(page, "golf ball")
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(90):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(e => e.getAttribute('aria-label') || e.innerText || e.id)(document.activeElement)"))
    text = " | ".join(map(str, reached))
    for control in (
        "Example: cat",
        "Explanation 1",
        "Opacity of the heat in column 3",
        "Explain French horn",
        "weights",
    ):
        assert control in text, text


def test_what_opens_the_page_never_replaces_a_picture(served):
    """A picture sent on loading could arrive after one that somebody has chosen."""
    events = served.page.config["dependencies"]
    opening = [e for e in events if any(trigger == "load" for _, trigger in e["targets"])]
    pictures = {c["id"] for c in served.page.config["components"] if c["props"].get("elem_id") == "ti-picture"}
    assert opening
    assert pictures
    assert not any(pictures & set(event["outputs"]) for event in opening)


def test_each_page_sees_its_own_picture(open_page):
    first, second = open_page(), open_page()
    upload(first, str(SAMPLES["golf ball"]))
    upload(second, str(SAMPLES["parachute"]))
    explained(first, "golf ball")
    explained(second, "parachute")
    first.get_by_role("tab", name="Why A rather than B").click()
    first.get_by_text("golf ball rather than").wait_for()
    second.get_by_role("tab", name="Why A rather than B").click()
    second.get_by_text("parachute rather than").wait_for()
