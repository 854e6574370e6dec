"""The Dagster UI as its users see it, in a real browser: backfill some days and look at the result."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from dagster_project.days import Days
from dagster_project.demo import company, providers

DAYS = Days(date(2026, 10, 1), date(2026, 10, 3))
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SECONDS = 180

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium, chromium-driver)"
)


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """`chargeback ui` on Acme, of which nothing has been pulled yet."""
    simulation = company.simulate(tmp_path_factory.mktemp("acme") / "simulated", DAYS, scale=0.1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with providers.serve(simulation.folder, restated=False) as servers:
        ui = subprocess.Popen(
            [str(Path(sys.executable).with_name("chargeback")), "ui", "--port", str(port)],
            env={
                **os.environ,
                "CHARGEBACK_HOME": str(tmp_path_factory.mktemp("home")),
                "CHARGEBACK_SOURCES": str(company.SOURCES),
                "CHARGEBACK_OWNERSHIP": str(company.OWNERSHIP),
                "ACME_LOGS": str(simulation.folder),
                **servers.environment,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(port, ui)
            yield f"http://127.0.0.1:{port}"
        finally:
            ui.terminate()
            ui.wait(timeout=120)


def _wait_for(port: int, ui: subprocess.Popen[bytes]) -> None:
    def answers(_: object) -> bool:
        assert ui.poll() is None, "the UI ended"
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    WebDriverWait(None, SECONDS).until(answers)


class Browser:
    """What is on the page, by its text."""

    def __init__(self, driver: Chrome, address: str) -> None:
        self._driver = driver
        self._address = address

    def open(self, path: str) -> None:
        self._driver.get(self._address + path)

    def sees(self, *texts: str) -> str:
        """Wait until all of `texts` are on the page; returns all of its text."""
        WebDriverWait(self._driver, SECONDS).until(
            lambda _: all(text in self.text for text in texts), f"{texts} are not on the page"
        )
        return self.text

    @property
    def text(self) -> str:
        return self._driver.execute_script("return document.body.innerText")

    def click(self, button: str) -> None:
        self._find(f"//button[starts-with(normalize-space(.), '{button}')][not(@disabled)]").click()

    def fill(self, placeholder: str, text: str) -> None:
        field = self._find(f"//input[@placeholder='{placeholder}']")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text, Keys.ENTER)

    def sees_so_many(self, number: int, selector: str) -> None:
        WebDriverWait(self._driver, SECONDS).until(
            lambda driver: len(driver.find_elements(By.CSS_SELECTOR, selector)) == number, selector
        )

    def _find(self, path: str):
        return WebDriverWait(self._driver, SECONDS).until(
            lambda driver: next(iter(driver.find_elements(By.XPATH, path)), None), path
        )


@pytest.fixture(scope="module")
def browser(address, tmp_path_factory) -> Iterator[Browser]:
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--window-size=1500,1000",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(argument)
    driver = Chrome(options=options, service=Service(DRIVER))
    try:
        yield Browser(driver, address)
    finally:
        driver.quit()


def test_the_graph_leads_from_the_sources_to_the_marts(browser):
    browser.open("/asset-groups")
    page = browser.sees("sources", "knowledge", "staging", "intermediate", "marts")
    assert "default" not in page.splitlines()
    assert "Join the Dagster community" not in page


def test_the_schedules_are_on(browser):
    browser.open("/automation")
    browser.sees("daily_openai", "daily_anthropic", "daily_gateway", "follow", "At 05:00 AM UTC")
    browser.sees_so_many(4, "input[type=checkbox]:checked")


@pytest.mark.slow
def test_days_are_backfilled_from_the_dialog_and_tell_what_they_hold(browser):
    browser.open("/assets/openai?view=overview")
    browser.sees("Charge and usage records of openai")
    browser.click("Materialize")
    browser.sees("Launch runs to materialize openai", "Backfills all partitions in a single run")
    browser.fill("No matching partitions", f"[{DAYS.first}...{DAYS.last}]")
    browser.sees("3 partitions")
    browser.click("Launch backfill")
    browser.open("/assets/openai?view=partitions")
    browser.sees("Materialized (3)")
    browser.open("/assets/openai?view=overview")
    page = browser.sees("Row count", f"{DAYS.first}..{DAYS.last}", "billed_cost", "preview")
    assert "reported cost (USD)" in page
