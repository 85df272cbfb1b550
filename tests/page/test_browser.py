"""The page in a browser: Debian's chromium, headless, for which no other host exists."""

import os
import shutil

import pytest
from pictures import file, photo
from small_checkpoints import save_lenet

from common.checkpoint import store

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="make test-browser installs it")
pytest.importorskip("starlette", reason="pip install '.[test]' brings it")

from serving import serving  # noqa: E402

CLASSES = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu"]
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("there is no chromium; make test-browser installs it")
    only = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with playwright.sync_playwright() as started:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=[only, *sandbox])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Two networks; the first has a second checkpoint, which always says cat."""
    folder = tmp_path_factory.mktemp("browser")
    save_lenet(str(folder / "one"), CLASSES)
    save_lenet(str(folder / "two"), CLASSES[::-1])
    symbol, *weights = store.load(str(folder / "one"), 1)
    weights[0]["output_bias"][2] = 1000
    store.save(str(folder / "one"), 2, symbol, *weights)
    with serving([str(folder / "one"), str(folder / "two")], [1, 1]) as (_, port):
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def opened(browser, address):
    """``opened(**options)`` is the page in a window of its own; at the end nothing was amiss."""
    contexts, asked, amiss = [], [], []

    def open_page(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: amiss.append(str(error)))
        page.on("console", lambda said: amiss.append(said.text) if "Security" in said.text else 0)
        page.goto(address)
        sample(page, "ship").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    own = (address, "data:image/png", "data:,", f"blob:{address}")
    assert [url for url in asked if not url.startswith(own)] == [] and amiss == []


def sample(page, name):
    return page.get_by_role("button", name=f"Look at the sample: {name}")


def answer(page, picture, network):
    """What a network says of a picture, as a screen reader finds it."""
    return page.get_by_role("region", name=f"{picture}, {network}")


def upload(name, content=None, kind="image/png"):
    return {"name": name, "mimeType": kind, "buffer": content or file(".png", photo(50, 40))}


def overflow(page):
    """Pixels by which the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


def test_pictures_are_named_by_both_networks_and_a_text_is_refused(opened):
    page = opened()
    chosen = [upload("a.png"), upload("notes.txt", b"no picture", "text/plain"), upload("b.png")]
    page.get_by_label("Drop pictures here").set_input_files(chosen)
    for name in ("a.png", "b.png"):
        for network in ("one", "two"):
            bars = answer(page, name, network).get_by_role("list", name="Likeliest classes")
            bars.get_by_role("listitem").nth(4).wait_for()
            assert bars.get_by_role("listitem").count() == 5
            widths = bars.locator("li div div").evaluate_all(
                "bars => bars.map(bar => bar.getBoundingClientRect().width)"
            )
            assert widths[0] > 0 and widths == sorted(widths, reverse=True)
            crop = answer(page, name, network).get_by_role("img", name="that the network sees")
            assert crop.evaluate("image => image.naturalWidth") == 32
    refused = answer(page, "notes.txt", "one").get_by_role("alert")
    assert "notes.txt: is not a picture" in refused.text_content()
    page.get_by_role("button", name="Remove notes.txt").click()
    assert page.get_by_role("article").count() == 2


def test_the_region_that_decides_is_shown_on_request(opened):
    page = opened()
    sample(page, "ship").click()
    said = answer(page, "ship", "two")
    said.get_by_role("button", name="Which region decides?").click()
    said.get_by_role("progressbar").wait_for()
    region = said.get_by_role("img", name="The region of ship that decides")
    region.wait_for()
    assert region.evaluate("image => image.naturalWidth") == 32
    assert "less likely" in said.text_content() and said.get_by_role("progressbar").count() == 0
    said.get_by_text("First layer's answers").click()
    assert said.get_by_role("img", name="The first layer's maps of ship").is_visible()


def test_another_checkpoint_looks_at_the_pictures_again(opened):
    page = opened()
    sample(page, "car").click()
    said = answer(page, "car", "one")
    said.get_by_role("listitem").first.wait_for()
    page.get_by_label("Checkpoint of one").select_option("epoch 2")
    said.get_by_role("heading", name="one, epoch 2").wait_for()
    said.get_by_text("cat 100.0%").wait_for()
    assert answer(page, "car", "two").get_by_role("heading").text_content() == "two, epoch 1"


def test_a_dropped_picture_is_looked_at(opened):
    page = opened()
    page.evaluate(
        """async () => {
          const content = await (await fetch("samples/car.jpg")).blob(), data = new DataTransfer();
          data.items.add(new File([content], "dropped.jpg"));
          const how = {dataTransfer: data, bubbles: true, cancelable: true};
          document.querySelector("h1").dispatchEvent(new DragEvent("drop", how));
        }"""
    )
    answer(page, "dropped.jpg", "one").get_by_role("listitem").first.wait_for()


def test_the_keyboard_is_enough(opened):
    page = opened()
    names = []
    for _ in range(7):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.tagName"))
    assert names == ["SELECT", "SELECT", "INPUT", *["BUTTON"] * 4]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    answer(page, "ship", "one").get_by_role("listitem").first.wait_for()
    page.get_by_role("status").get_by_text("ship, two: ").wait_for()  # is read out
    for _ in range(2):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Which region decides?"


def test_nothing_is_wider_than_a_telephone(opened):
    page = opened(viewport={"width": 320, "height": 640})
    page.get_by_label("Drop pictures here").set_input_files([upload("long" * 30 + ".png")])
    said = page.get_by_role("article").get_by_role("region").last
    said.get_by_role("listitem").first.wait_for()
    said.get_by_text("First layer's answers").click()
    assert overflow(page) == 0


def test_it_is_dark_where_the_system_is(opened):
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = (opened(color_scheme=scheme).evaluate(background) for scheme in ("light", "dark"))
    assert light == "rgb(246, 247, 249)" and dark == "rgb(20, 24, 30)"
