"""The reports in a real browser: they fit every width, are legible in both themes, and can be read aloud."""

import pytest
from browser import Browser, executable
from report_examples import data_example, ensemble_example, training_example

from landseg.report import data, training
from landseg.report.ensemble import rendering

pytest.importorskip("websocket", reason="needs the websocket-client package")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(executable() is None, reason="no Chromium on this machine"),
]

# Text whose contrast with what lies behind it is below WCAG AA.
LOW_CONTRAST = """
(() => {
  const parse = text => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const behind = element => {
    let layers = [];
    for (let e = element; e; e = e.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(e).backgroundColor);
      layers.push([r, g, b, a]);
      if (a === 1) break;
    }
    return layers.reverse().reduce((under, [r, g, b, a]) =>
      [r, g, b].map((v, i) => v * a + under[i] * (1 - a)), [255, 255, 255]);
  };
  const luminance = rgb => rgb.map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest("svg, script, style, .skip")) continue;
    const [a, b] = [luminance(parse(getComputedStyle(element).color).slice(0, 3)), luminance(behind(element))].sort();
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)}: ${walker.currentNode.data.trim().slice(0, 40)}`);
  }
  return found;
})()
"""

# Elements that stick out of the page, those inside a scrolling region left aside.
STICKING_OUT = """
[...document.querySelectorAll("body *")].filter(e => {
  const box = e.getBoundingClientRect();
  const limit = document.documentElement.clientWidth + 1;
  return box.width && box.right > limit && !e.closest(".scroll, .legend ul, svg, pre");
}).map(e => e.outerHTML.slice(0, 100))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(
    scope="module",
    params=[
        lambda: rendering.render(ensemble_example(num_tiles=4)),
        lambda: data.render(data_example(num_samples=3, num_problems=4)),
        lambda: training.render(training_example()),
    ],
    ids=["ensemble", "data", "training"],
)
def page(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(request.param(), encoding="utf-8")
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_nothing_sticks_out_and_all_text_can_be_read(browser, page, width, dark):
    browser.show(page, width, dark=dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(STICKING_OUT) == []
    assert browser.evaluate(LOW_CONTRAST) == []


def test_pale_text_would_be_found(browser, page):
    browser.show(page, 1280)
    browser.evaluate("document.documentElement.style.setProperty('--muted', '#999')")
    assert browser.evaluate(LOW_CONTRAST)


def test_assistive_technology_finds_its_way(browser, page):
    browser.show(page, 1280)
    nodes = browser.accessibility_tree()
    roles = {}
    for node in nodes:
        roles.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", "").strip())
    assert {"main", "navigation", "heading", "table", "columnheader", "rowheader", "radio", "region"} <= set(roles)
    for role in ("heading", "link", "radio", "image", "table", "columnheader", "rowheader", "region"):
        assert all(roles.get(role, ["named"])), f"a {role} without a name"


def test_everything_but_the_copy_button_works_without_scripts(browser, page):
    browser.show(page, 1280, scripts=False)
    for details in range(browser.evaluate("document.querySelectorAll('details').length")):
        browser.evaluate(f"document.querySelectorAll('details')[{details}].open = true")
    assert browser.evaluate("document.querySelector('button[data-copy]').checkVisibility()") is False
    assert browser.evaluate("getComputedStyle(document.querySelector('#provenance-json')).userSelect") == "all"
    browser.evaluate("document.querySelector('#palette-safe').checked = true")
    shown = "[...document.querySelectorAll('img')].filter(i => i.checkVisibility()).map(i => i.className)"
    assert "own" not in browser.evaluate(shown)


def test_the_copy_button_selects_all_of_it(browser, page):
    browser.show(page, 1280)
    browser.evaluate("document.querySelector('details.copy').open = true")
    assert browser.evaluate("document.querySelector('button[data-copy]').checkVisibility()")
    browser.evaluate("document.querySelector('button[data-copy]').click()")
    assert browser.evaluate("getSelection().toString() === document.querySelector('#provenance-json').textContent")
    assert browser.evaluate("document.querySelector('[role=status]').textContent") != ""


def test_one_matrix_is_shown_at_a_time_and_all_are_printed(browser, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(rendering.render(ensemble_example(num_tiles=1)), encoding="utf-8")
    visible = "[...document.querySelectorAll('.matrix')].map(m => m.checkVisibility())"
    browser.show(path, 1280)
    assert browser.evaluate(visible) == [False, False, True]
    browser.evaluate("document.querySelector('#matrix-0').click()")
    assert browser.evaluate(visible) == [True, False, False]
    browser.show(path, 1280, media="print")
    assert browser.evaluate(visible) == [True, True, True]
