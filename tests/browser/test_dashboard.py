"""The live page in a real browser, while a real study runs and after it."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Download, Page, expect

from search.commands.dashboard import write_report
from search.export import load
from search.study import Study
from tests.browser.conftest import TRIALS, Lived
from tests.search.drive import wait_for

#: Milliseconds that a page may take on a busy machine.
PATIENCE = 60_000


#: Of the points that plotly has drawn but for that of one trial, the one farthest from its neighbours: trial and place.
LONELIEST = """but => { const plot = document.querySelector('#front .js-plotly-plot'), points = [];
  plot.scrollIntoView({block: 'center'});
  const box = plot.getBoundingClientRect(), {xaxis, yaxis} = plot._fullLayout;
  for (const trace of plot._fullData) for (let i = 0; i < (trace.customdata ?? []).length; i++)
    points.push([trace.customdata[i][0], box.x + xaxis._offset + xaxis.d2p(trace.x[i]),
                 box.y + yaxis._offset + yaxis.d2p(trace.y[i])]);
  const lonely = a => Math.min(...points.filter(b => b !== a).map(b => Math.hypot(a[1] - b[1], a[2] - b[2])));
  return points.filter(a => a[0] !== but).sort((a, b) => lonely(b) - lonely(a))[0]; }"""


def opened(page: Page, dashboard: str, lived: Lived) -> None:
    """The page of the study that has ended, once its figures are there."""
    lived.wait()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{dashboard}/lived")
    expect(page.locator("#trial-card .main-svg").first).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#front .main-svg").first).to_be_visible(timeout=PATIENCE)


def decided(page: Page) -> int:
    """How many trials the page says are decided."""
    found = re.search(r"(\d+) of \d+ trials", page.locator("#head").inner_text())
    return int(found[1]) if found else 0


def shown(page: Page) -> int:
    """The trial whose card is shown."""
    return int(page.locator("#trial-card h3").first.inner_text().removeprefix("Trial "))


def saved(download: Download) -> bytes:
    return Path(download.path()).read_bytes()


def test_a_page_follows_a_study_that_runs(page: Page, dashboard: str, lived: Lived) -> None:
    wait_for(lived.home / "studies" / "lived" / "state.json")
    page.goto(f"{dashboard}/lived")
    page.evaluate("window.untouched = true")
    seen: list[int] = []
    while not seen or seen[-1] < TRIALS:
        page.wait_for_function(
            "n => { const found = /(\\d+) of \\d+ trials/.exec(document.querySelector('#head')?.innerText ?? '');"
            " return found && Number(found[1]) > n }",
            arg=seen[-1] if seen else -1,
            timeout=PATIENCE,
        )
        seen.append(decided(page))
    lived.wait()
    assert len(seen) >= 2, f"the page was seen to show {seen} trials"
    expect(page.locator("#head .chip")).to_have_text("complete", timeout=PATIENCE)
    assert page.evaluate("window.untouched") is True, "the page was loaded anew"
    best = Study.load("lived", lived.home).best()
    assert best is not None
    expect(page.locator("#summary")).to_contain_text(f"Best: trial {best.number}", timeout=PATIENCE)
    expect(page.locator("#trial-card h3").first).to_have_text(f"Trial {best.number}", timeout=PATIENCE)


def test_a_click_on_a_point_shows_its_profile_against_the_baseline(page: Page, dashboard: str, lived: Lived) -> None:
    opened(page, dashboard, lived)
    study = Study.load("lived", lived.home)
    number, across, down = page.evaluate(LONELIEST, shown(page))
    other = study.books().results[number]
    page.mouse.move(across, down)
    expect(page.locator("#front .hoverlayer")).to_contain_text(f"trial {number}", timeout=PATIENCE)
    page.mouse.click(across, down)
    card = page.locator("#trial-card")
    expect(card.locator("h3").first).to_have_text(f"Trial {other.number}", timeout=PATIENCE)
    row = card.locator("tr", has_text="macs")
    assert row.locator("td").nth(1).inner_text() == f"{study.state.baseline['macs']:,.0f}"
    assert row.locator("td").nth(2).inner_text() == f"{other.scores['macs']:,.0f}"
    sparsity = other.request.profile.parameters()["pruning.sparsity"]
    assert card.locator("tr", has_text="sparsity").locator("td").last.inner_text() == f"{sparsity:.4g}"
    expect(page.locator("#trial-title")).to_have_text(f"Trial {other.number} in detail")


def test_the_keyboard_goes_through_trials(page: Page, dashboard: str, lived: Lived) -> None:
    opened(page, dashboard, lived)
    first = shown(page)
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "next":
            break
    assert page.evaluate("document.activeElement.id") == "next", "the button must be within reach of the Tab key"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("#trial-card h3").first).to_have_text(f"Trial {(first + 1) % TRIALS}", timeout=PATIENCE)


def test_an_export_is_downloaded_and_loads(page: Page, dashboard: str, lived: Lived, tmp_path: Path) -> None:
    opened(page, dashboard, lived)
    number = shown(page)
    with page.expect_download(timeout=PATIENCE) as download:
        page.get_by_role("button", name="Export").click()
    assert download.value.suggested_filename == f"lived-{number}.zip"
    zipfile.ZipFile(io.BytesIO(saved(download.value))).extractall(tmp_path)
    network = load(tmp_path / f"lived-{number}")
    assert not network.training
    expect(page.locator("#exported")).to_contain_text("is downloaded")


def test_the_report_and_the_table_are_downloaded(page: Page, dashboard: str, lived: Lived) -> None:
    opened(page, dashboard, lived)
    with page.expect_download(timeout=PATIENCE) as report:
        page.get_by_role("link", name="Report").click()
    text = saved(report.value).decode()
    assert re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", text) == []
    with page.expect_download(timeout=PATIENCE) as table:
        page.get_by_role("link", name="Table").click()
    rows = list(csv.DictReader(io.StringIO(saved(table.value).decode())))
    assert [int(row["number"]) for row in rows] == list(range(TRIALS))


def test_a_report_stands_alone(page: Page, lived: Lived, tmp_path: Path) -> None:
    lived.wait()
    study = Study.load("lived", lived.home)
    write_report(study, tmp_path / "report.html")
    page.goto((tmp_path / "report.html").as_uri(), timeout=PATIENCE)
    expect(page.get_by_role("heading", level=1)).to_have_text("lived")
    assert page.locator(".js-plotly-plot .main-svg").count() > 10
    page.wait_for_function(
        "[...document.querySelectorAll('.js-plotly-plot')]"
        ".every(plot => plot.querySelector('.main-svg').clientWidth <= plot.clientWidth)",
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("page", [375], indirect=True)
def test_a_phone_needs_no_sideways_scrolling(page: Page, dashboard: str, lived: Lived) -> None:
    opened(page, dashboard, lived)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    wide = page.evaluate(
        """() => [...document.querySelectorAll('.card, button, .main-svg, h1, h2, h3')]
        .filter(part => part.getBoundingClientRect().right > 375.5).map(part => part.outerHTML.slice(0, 80))"""
    )
    assert wide == []
    first = shown(page)
    page.get_by_role("button", name="next").click()
    expect(page.locator("#trial-card h3").first).to_have_text(f"Trial {(first + 1) % TRIALS}", timeout=PATIENCE)
    page.goto(f"{dashboard}/")
    page.get_by_role("link", name=re.compile("lived")).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("lived", timeout=PATIENCE)


def test_a_study_that_is_not_there_is_said_so(page: Page, dashboard: str, lived: Lived) -> None:
    wait_for(lived.home / "studies" / "lived" / "state.json")
    page.goto(f"{dashboard}/livid")
    expect(page.locator("main")).to_contain_text("lived", timeout=PATIENCE)
    expect(page.get_by_role("heading", level=1)).to_have_text("Not here")
