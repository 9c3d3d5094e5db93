"""The page of a report in a real browser: what is seen, pressed, typed, copied and downloaded."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import shutil
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_reports as made
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, sync_playwright

from search.show.report.page import packed, plain, write_report
from search.show.report.record import Report, StudyReport

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
IN_BROWSER = pytest.mark.skipif(
    CHROMIUM is None, reason="the page is tried in Chromium (apt install chromium): none found"
)
PATIENCE = 180_000  # milliseconds; a page opens in 2 s where the machine is idle
STUDY = made.study_report(60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@contextmanager
def opened(
    browser: Browser, report: Report, folder: Path, script: str = "", **settings: Any
) -> Iterator[Page]:
    """The page of the report, ready. It may load files alone, and nothing may go wrong in it. The
    `script` runs before the page's own."""
    path = write_report(report, folder)[0]
    shared = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"}
    context = browser.new_context(**(shared | settings))
    context.set_default_timeout(PATIENCE)
    context.add_init_script(script)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("file:", "data:", "blob:"))
            else wrong.append(request.url)
        ),
    )
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=true]")
    yield page
    context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with opened(browser, made.report(STUDY), tmp_path_factory.mktemp("page")) as page:
        yield page


def sections(page: Page) -> None:
    """Fills every section, as printing does."""
    page.evaluate("dispatchEvent(new Event('beforeprint')); dispatchEvent(new Event('afterprint'))")


def best_under(study: StudyReport, limit: float) -> str | None:
    fitting = [point for point in study.front if point.size_bytes <= limit]
    return min(fitting, key=lambda point: point.perplexity).label if fitting else None


def limit_to(page: Page, text: str) -> None:
    page.locator("#typed").fill(text)
    page.keyboard.press("Enter")


def title(page: Page) -> str:
    return page.locator("#chosen h3").inner_text().removesuffix(" · knee")


def mark(page: Page, label: str) -> Locator:
    """The marks of a group of the plot, found by the place of its trace."""
    at = page.evaluate(
        "(label) => document.querySelector('#plane').data.findIndex("
        "(trace) => trace.customdata && trace.customdata.some(([, kind]) => kind === label))",
        label,
    )
    uid = page.evaluate(f"document.querySelector('#plane')._fullData[{at}].uid")
    return page.locator(f"#plane .scatterlayer .trace{uid} .points path")


@IN_BROWSER
def test_the_first_screen_says_the_result_and_the_knee(page: Page) -> None:
    assert page.locator("h1").inner_text() == STUDY.sentence
    assert f"60 trials, {len(STUDY.front)} on the front" in page.locator("#facts").inner_text()
    knee = next(point for point in STUDY.front if point.name == STUDY.knee)
    assert page.locator("#chosen h3").inner_text() == f"{knee.label} · knee"
    for line in knee.recipe:
        assert line.split(": ")[1] in page.locator("#chosen").inner_text()
    sites = page.locator("#chosen tbody th").all_inner_texts()
    assert sites == list(made.SITES)
    assert page.locator("#legend").inner_text().count("model") >= 3


@IN_BROWSER
def test_hovering_shows_the_recipe_in_words(page: Page) -> None:
    point = STUDY.front[-1]
    mark(page, "front").last.hover(force=True)
    page.wait_for_selector("#tip:not([hidden])")
    text = page.locator("#tip").inner_text()
    assert text.startswith(point.label)
    assert f"perplexity {point.perplexity:.2f}" in text
    assert all(line in text for line in point.recipe)
    page.mouse.move(5, 5)
    page.wait_for_selector("#tip", state="hidden")


@IN_BROWSER
def test_the_slider_marks_the_best_model_under_the_limit(page: Page) -> None:
    slider = page.locator("#limit")
    slider.focus()
    seen = set()
    for key in ("Home", *["PageUp"] * 6, "ArrowLeft", "End"):
        page.keyboard.press(key)
        shown = page.locator("#typed").input_value()
        number, unit = shown.split()
        limit = float(number) * {"kB": 1e3, "MB": 1e6}[unit]
        assert slider.get_attribute("aria-valuetext") == shown
        expected = best_under(STUDY, limit)
        if expected is None:
            assert f"No model fits in {shown}." in page.locator("#chosen").inner_text()
        else:
            assert title(page) == expected
        seen.add(expected)
    assert len(seen) > 3
    assert title(page) == STUDY.front[-1].label


@IN_BROWSER
@pytest.mark.parametrize(
    ("typed", "size_bytes"),
    [("1 MB", 1e6), ("500kB", 5e5), ("0.3mb", 3e5), ("450000", 450_000), ("1,2 MB", 1.2e6)],
)
def test_a_limit_may_be_typed(page: Page, typed: str, size_bytes: float) -> None:
    limit_to(page, typed)
    assert title(page) == best_under(STUDY, size_bytes)


@IN_BROWSER
def test_a_limit_that_is_no_size_is_said_and_the_next_one_counts(page: Page) -> None:
    limit_to(page, "much")
    assert "“much” is no size: write 1 MB" in page.locator("#typed-problem").inner_text()
    limit_to(page, "10 kB")
    assert page.locator("#typed-problem").is_hidden()
    assert "No model fits in 10.0 kB." in page.locator("#chosen").inner_text()
    limit_to(page, "1 GB")
    assert title(page) == STUDY.front[-1].label


@IN_BROWSER
@pytest.mark.parametrize("clipboard", [True, False])
def test_the_export_command_is_copied(page: Page, clipboard: bool) -> None:
    """By the clipboard, and by the older way where a file may not use it."""
    if not clipboard:
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(); }")
    point = STUDY.front[3 if clipboard else 5]
    limit_to(page, str(point.size_bytes))
    page.locator("#chosen .copy").click()
    page.wait_for_selector("#chosen .copy:text('Copied')")
    page.locator("#trials").scroll_into_view_if_needed()
    search = page.locator("#trials input[type=search]")
    search.focus()
    page.keyboard.press("Control+V")
    assert search.input_value() == point.export
    search.fill("")


def column(page: Page, number: int) -> list[str]:
    return page.locator(f"#trials tr[data-row] td:nth-child({number})").all_inner_texts()


@IN_BROWSER
def test_the_table_is_sorted_by_any_column_with_the_missing_last(page: Page) -> None:
    page.locator("#trials").scroll_into_view_if_needed()
    sizes = sorted(size for size in STUDY.trials["size_bytes"] if size is not None)
    head = page.locator("#trials th button:text('size')")
    for direction, first in (("ascending", sizes[0]), ("descending", sizes[-1])):
        head.click()
        assert page.locator(f"#trials th[aria-sort={direction}]").count() == 1
        row = page.locator("#trials tr[data-row]").first.get_attribute("data-row")
        assert STUDY.trials["size_bytes"][int(row or -1)] == first
        page.locator("#trials .rows").evaluate("(node) => (node.scrollTop = 1e9)")
        page.wait_for_function(
            "document.querySelector('#trials tr[data-row]:nth-last-child(2)').ariaRowIndex === '61'"
        )
        assert column(page, 3)[-1] == ""
        page.locator("#trials .rows").evaluate("(node) => (node.scrollTop = 0)")


@IN_BROWSER
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("size < 500kB", lambda row: (STUDY.trials["size_bytes"][row] or 9e9) < 5e5),
        (
            "perplexity <= 120 and state=front",
            lambda row: (
                STUDY.trials["state"][row] == "front" and STUDY.trials["perplexity"][row] <= 120
            ),
        ),
        ("failed memory", lambda row: "memory" in (STUDY.trials["failure"][row] or "")),
        (
            "finetuning.optimizer = adam, trial >= 30",
            lambda row: row >= 30 and STUDY.parameters["finetuning.optimizer"][row] == "adam",
        ),
        ("stopped_early = yes", lambda row: STUDY.trials["stopped_early"][row]),
        ("nowhere-to-be-found", lambda row: False),
    ],
)
def test_filter_and_csv(page: Page, text: str, wanted: Any) -> None:
    page.locator("#trials").scroll_into_view_if_needed()
    page.locator("#trials input[type=search]").fill(text)
    with page.expect_download() as download:
        page.locator("#trials button:text('Download CSV')").click()
    assert download.value.suggested_filename == "ptb_small.csv"
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text(), newline="")))
    expected = {row for row in range(60) if wanted(row)}
    assert {int(row["number"]) for row in rows} == expected
    shown = f"{len(expected)} of 60 trials"
    assert page.locator("#trials .controls .muted").inner_text() == shown
    for row in rows:
        at = int(row["number"])
        assert row["recipe"] == made.recipe_text(STUDY.trials, STUDY.recipes, at)
        assert row["finetuning.optimizer"] == STUDY.parameters["finetuning.optimizer"][at]
        if row["perplexity"]:
            assert math.isclose(
                float(row["perplexity"]), STUDY.trials["perplexity"][at], rel_tol=1e-5
            )
    page.locator("#trials input[type=search]").fill("")


@IN_BROWSER
def test_the_filter_knows_the_measure_by_its_name(browser: Browser, tmp_path: Path) -> None:
    study = replace(STUDY, unit="error %")
    with opened(browser, made.report(study), tmp_path) as page:
        page.locator("#trials").scroll_into_view_if_needed()
        note = page.locator("#trials .note").text_content() or ""
        assert "error <= " in note
        assert "perplexity" not in note
        page.locator("#trials input[type=search]").fill("error <= 120")
        expected = sum((value or 1e9) <= 120 for value in STUDY.trials["perplexity"])
        assert 0 < expected < 60
        assert f"{expected} of 60 trials" in (page.locator("#trials").text_content() or "")
        page.locator("#trials input[type=search]").fill("perplexity <= 120")
        problem = page.locator("#trials .problem").text_content() or ""
        assert "no column “perplexity”" in problem
        assert "error" in problem


@IN_BROWSER
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("colour < 3", "There is no column “colour”"),
        ("size < much", "“much” is no number to compare size bytes with."),
        ("< 3", "is not understood"),
    ],
)
def test_a_filter_that_is_not_understood_is_said(page: Page, text: str, problem: str) -> None:
    page.locator("#trials").scroll_into_view_if_needed()
    page.locator("#trials input[type=search]").fill(text)
    assert problem in page.locator("#trials .problem").inner_text()
    page.locator("#trials input[type=search]").fill("")
    assert page.locator("#trials .problem").is_hidden()


@IN_BROWSER
def test_a_point_chooses_its_row_and_a_row_its_point(page: Page) -> None:
    page.locator("#trials").scroll_into_view_if_needed()
    page.locator("#plane").scroll_into_view_if_needed()
    mark(page, "front").first.click(force=True)
    assert title(page) == STUDY.front[0].label
    selected = page.locator("#trials tr[aria-selected=true]")
    assert selected.get_attribute("data-row") == STUDY.front[0].name
    dominated = STUDY.trials["state"].index("dominated")
    page.locator("#trials input[type=search]").fill(f"trial = {dominated}")
    page.locator("#trials tr[data-row]").click()
    assert title(page).startswith(f"trial {dominated}, dominated")
    assert page.locator("#plane .overlay .ring").count() == 1
    page.locator("#chosen button:text('Back to the limit')").click()
    assert title(page) == STUDY.front[0].label
    page.locator("#trials input[type=search]").fill("")


@IN_BROWSER
def test_every_section_is_filled(page: Page) -> None:
    sections(page)
    text = page.locator("#study").inner_text()
    sure = [point.sure for point in STUDY.front if point.sure][-1]
    assert f"{sure.perplexity[0]:.2f} ± {sure.perplexity[1]:.2f}" in text
    assert "Importance for perplexity" in text
    assert "torch\n2.13.0" in text
    assert [reason for reason in made.REASONS if reason in text] == [
        reason for reason in made.REASONS if reason in STUDY.course.failures
    ]
    for section in ("sure", "made", "mattered", "course"):
        assert page.locator(f"#{section} .js-plotly-plot").count() >= 1, section
    for quantity in ("structure", "rank", "zeros", "bytes", "bits"):
        page.locator(f"#made button[data-key={quantity}]").click()
        values = page.evaluate("document.querySelector('#made .plot').data[0].z.flat()")
        assert any(value is not None for value in values), quantity
    page.locator("#mattered select").select_option("finetuning.rate")
    page.locator("#mattered button[data-key=size_bytes]").click()
    page.locator("#course button[data-key=hours]").click()
    assert "hours" in page.locator("#course .plot").inner_text()


@IN_BROWSER
def test_the_legend_hides_and_shows(page: Page) -> None:
    button = page.locator("#legend button:text('Grachev')")
    button.click()
    assert page.locator("#legend button[aria-pressed=false]").count() == 1
    assert "Grachev" not in page.locator("#plane").inner_text()
    page.locator("#legend button:text('Grachev')").click()
    assert "Grachev" in page.locator("#plane").inner_text()


def luminance(page: Page, node: str, name: str) -> float:
    """Of a colour of the page (WCAG 2.2)."""
    colour = page.locator(node).first.evaluate(f"(node) => getComputedStyle(node).{name}")
    numbers = [int(one) / 255 for one in colour.split("(")[1].rstrip(")").split(",")[:3]]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in numbers]
    return sum(a * b for a, b in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@IN_BROWSER
def test_both_themes_can_be_read(page: Page) -> None:
    """By the system, and by the button; texts have AA's contrast of 4.5 in both."""
    page.emulate_media(color_scheme="dark")
    assert luminance(page, "body", "backgroundColor") < 0.1
    for theme in ("Light", "Dark", "Auto"):
        page.locator("#theme").click()
        assert page.locator("#theme").inner_text() == theme
        paper = luminance(page, "body", "backgroundColor")
        assert (paper > 0.5) == (theme == "Light")
        for node in ("h1", "#facts", "#chosen .facts", "#typed", "#plane-note", "#study .note"):
            ink = luminance(page, node, "color")
            assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 4.5, node
    page.emulate_media(color_scheme="light")
    assert luminance(page, "body", "backgroundColor") > 0.5


@IN_BROWSER
def test_waiting_trials_are_not_counted_as_trials(browser: Browser, tmp_path: Path) -> None:
    states = [*STUDY.trials["state"][:-4], *["waiting"] * 4]
    study = replace(STUDY, trials=STUDY.trials | {"state": states})
    with opened(browser, made.report(study), tmp_path) as page:
        facts = page.locator("#facts").inner_text()
        assert "56 trials, " in facts
        assert "4 waiting" in facts


@IN_BROWSER
def test_a_phone_does_not_scroll_sideways(browser: Browser, tmp_path: Path) -> None:
    """With long names, too; and a page that watches remembers what its reader did."""
    timer = "window.setInterval = (call) => { window.anew = call; return 0; }"
    phone = {"viewport": {"width": 420, "height": 860}, "has_touch": True, "is_mobile": True}
    studies = [made.study_report(60, "a_study_of_a_long_name_that_nobody_would_type"), STUDY]
    report = replace(made.report(*studies, watching=True), sentence="x" * 80)
    with opened(browser, report, tmp_path, timer, **phone) as page:
        sections(page)
        width = "document.documentElement.scrollWidth"
        assert page.evaluate(width) == 420
        assert page.locator("#watching").is_visible()
        limit_to(page, "700 kB")
        page.locator("#tab-1").click()
        sections(page)
        page.locator("#theme").click()
        page.locator("#trials input[type=search]").fill("adam")
        page.evaluate("scrollTo({top: 2500, behavior: 'instant'})")
        at = page.evaluate("scrollY")
        page.evaluate("anew()")
        assert page.evaluate("scrollY") == at, "the page waits for who is typing"
        with page.expect_navigation():
            page.evaluate("() => { const now = Date.now(); Date.now = () => now + 5000; anew(); }")
        page.wait_for_selector("html[data-ready=true]")
        assert page.locator("#typed").input_value() == "700 kB"
        assert page.locator("#tab-1").get_attribute("aria-selected") == "true"
        assert page.locator("#theme").inner_text() == "Light"
        assert abs(page.evaluate("scrollY") - at) < 60
        sections(page)
        assert page.locator("#trials input[type=search]").input_value() == "adam"
        assert page.evaluate(width) == 420


@IN_BROWSER
def test_several_studies_share_one_plane(browser: Browser, tmp_path: Path) -> None:
    other = made.study_report(50, "ptb_tied", shift=0.9)
    with opened(browser, made.report(STUDY, other), tmp_path) as page:
        legend = page.locator("#legend").inner_text()
        assert f"ptb_small: {len(STUDY.front)} models" in legend
        assert f"ptb_tied: {len(other.front)} models" in legend
        limit_to(page, "900 kB")
        text = page.locator("#chosen").inner_text()
        assert title(page) == f"ptb_tied: {best_under(other, 9e5)}"
        assert f"ptb_small: {best_under(STUDY, 9e5)}" in text
        assert page.locator("#tab-0").get_attribute("aria-selected") == "true"
        page.locator("#tab-0").focus()
        page.keyboard.press("ArrowRight")
        sections(page)
        assert page.locator("#trials .controls .muted").inner_text() == "50 of 50 trials"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plotly.min.js", "report.html"]


@IN_BROWSER
def test_nothing_in_a_record_acts_as_markup(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, made.report(made.hostile()), tmp_path) as page:
        sections(page)
        assert page.title() == made.HOSTILE
        assert page.locator("main img, main script, li b b, h3 b").count() == 0
        for node in (".kicker", "#chosen h3", "#chosen .recipe", "#provenance", "#trials"):
            assert "<img src=x onerror=" in page.locator(node).inner_text(), node
        assert "<img src=x" in page.locator("#plane").inner_text()
        mark(page, "front").first.hover(force=True)
        page.wait_for_selector("#tip:not([hidden])")
        assert made.HOSTILE in page.locator("#tip").inner_text()


@IN_BROWSER
@pytest.mark.parametrize(
    ("study", "said"),
    [
        (made.empty(), ["No model is on the front yet.", "No trial was started yet."]),
        (made.all_failed(), ["No model is on the front yet.", made.REASONS[0]]),
        (made.study_report(1), ["trial 0", "Too few files were measured"]),
        (made.ties(), ["trial 0"]),
        (made.three_objectives(), ["speed, x dense", "x the dense model's speed"]),
    ],
    ids=["empty", "failed", "single", "ties", "three"],
)
def test_edges(browser: Browser, tmp_path: Path, study: StudyReport, said: list[str]) -> None:
    with opened(browser, made.report(study), tmp_path) as page:
        sections(page)
        text = page.locator("main").inner_text()
        assert all(one in text for one in said), text
        assert "undefined" not in text
        assert "NaN" not in text


@IN_BROWSER
def test_without_plotly_the_rest_of_the_page_works(browser: Browser, tmp_path: Path) -> None:
    path, script = write_report(made.report(STUDY), tmp_path)
    script.unlink()
    context = browser.new_context()
    page = context.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=true]", timeout=PATIENCE)
    assert "plotly.min.js is not beside this page" in page.locator("#plane").inner_text()
    limit_to(page, "1 MB")
    assert title(page) == best_under(STUDY, 1e6)
    context.close()


@IN_BROWSER
def test_the_page_is_usable_before_plotly_is_loaded(browser: Browser, tmp_path: Path) -> None:
    path, _ = write_report(made.report(STUDY), tmp_path)
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    page, held = context.new_page(), list[Route]()
    page.route("**/plotly.min.js", lambda route: held.append(route))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-usable=true]")
    limit_to(page, "1 MB")
    assert title(page) == best_under(STUDY, 1e6)
    page.locator("#trials").scroll_into_view_if_needed()
    page.wait_for_selector("#trials tbody tr:nth-child(4)")
    legend = page.locator("#legend").inner_text()
    page.locator("#legend button").first.click()
    assert page.locator(".js-plotly-plot").count() == 0
    while not held:
        page.wait_for_timeout(20)
    held[0].continue_()
    page.wait_for_selector("html[data-ready=true]")
    assert page.locator("#plane.js-plotly-plot .ring").count() == 1
    assert page.locator("#plane path.point").count() > 3
    assert page.locator("#legend").inner_text() == legend
    assert page.locator("#legend button").first.get_attribute("aria-pressed") == "false"
    assert page.locator("#mattered .js-plotly-plot").count() >= 1
    context.close()


def test_the_same_record_gives_the_same_page_and_plotly_is_written_once(tmp_path: Path) -> None:
    page, script = write_report(made.report(STUDY), tmp_path)
    first, written = page.read_bytes(), script.stat().st_mtime_ns
    write_report(made.report(STUDY), tmp_path)
    assert page.read_bytes() == first
    assert script.stat().st_mtime_ns == written
    script.write_bytes(b"another version")
    write_report(made.report(STUDY), tmp_path)
    assert script.stat().st_size > 4e6
    assert not [
        line for line in first.decode().splitlines() if "://" in line and "w3.org" not in line
    ]


def test_the_data_is_the_record_to_six_digits() -> None:
    study = replace(
        STUDY, trials=STUDY.trials | {"seconds": [math.nan, math.inf, 1 / 3] + [1.0] * 57}
    )
    data = json.loads(gzip.decompress(b64decode(packed(made.report(study)))))
    one = data["studies"][0]
    assert one["trials"]["seconds"][:3] == [None, None, 0.333333]
    assert one["trials"]["size_bytes"] == STUDY.trials["size_bytes"]
    assert one["front"][0]["recipe"] == STUDY.front[0].recipe
    assert plain(1.7e9 + 0.4) == 1_700_000_000
    assert plain(Path("a")) == "a"


@pytest.mark.slow
def test_20000_trials_stay_below_15_mb(tmp_path: Path) -> None:
    written = write_report(made.report(made.study_report(20_000)), tmp_path)
    assert sum(path.stat().st_size for path in written) < 15e6
