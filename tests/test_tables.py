"""Tables in files: every form, dialect and header, and what a row that is none is told as."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path

import duckdb
import pytest

from dagster_project.errors import SourceError
from dagster_project.sources import _tables

WANTED = ("A", "b", "tags")


def read(folder: Path, *names: str, required: tuple[str, ...] = ()) -> list[tuple[str | None, ...]]:
    files = {str(folder / name): (folder / name).stat().st_size for name in names}
    target = folder / "out.parquet"
    with duckdb.connect() as engine:
        _tables.extract("bill", engine, files, WANTED, required, "select * from logged", target)
        return engine.sql(f"select a, b, tags from read_parquet('{target}') order by all").fetchall()


def write(folder: Path, name: str, text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return name


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n",
        "b,a\n2,1\n",
        "a,b\r\n1,2\r\n",
        '\ufeff"A",B,other\r\n"1",2,x',
        " a ; b \n1;2\n",
        "a\tb\n1\t2\n",
        "a|b\n1|2\n",
        "a,b,b,,file\n1,2,3,4,5\n",
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_row_of_any_dialect(tmp_path: Path, text: str, name: str) -> None:
    assert read(tmp_path, write(tmp_path, name, text)) == [("1", "2", None)]


def test_values_stay_as_they_are_written(tmp_path: Path) -> None:
    name = write(tmp_path, "t.csv", 'a,b,tags\n0.10,"x,\ny","{""team"":""a \\""b""}"\n1e-7,,\n"",NULL,null\n')
    assert read(tmp_path, name) == [
        ("0.10", "x,\ny", '{"team":"a \\"b"}'),
        ("1e-7", None, None),
        (None, "NULL", "null"),
    ]


def test_a_name_with_a_slash_goes_by_its_snake_case_unless_another_column_does(tmp_path: Path) -> None:
    def read_of(header: str, *wanted: str) -> list[tuple[str | None, ...]]:
        write(tmp_path, "t.csv", f"{header}\n1,2\n")
        file = str(tmp_path / "t.csv")
        with duckdb.connect() as engine:
            query = "select * exclude (file) from logged"
            _tables.extract("bill", engine, {file: 1}, wanted, (), query, tmp_path / "out.parquet")
            return engine.sql(f"from read_parquet('{tmp_path}/out.parquet')").fetchall()

    legacy = "lineItem/UsageStartDate,resourceTags/user:CostCenter"
    assert read_of(legacy, "line_item_usage_start_date", "resource_tags_user_cost_center") == [("1", "2")]
    assert read_of(legacy, "LineItem/usageStartDate", "cost_center") == [("1", None)]
    assert read_of("lineItem/UsageType,line_item_usage_type", "line_item_usage_type") == [("2",)]
    assert read_of("usageType,x", "usage_type") == [(None,)]


def test_files_with_other_columns_are_one_table(tmp_path: Path) -> None:
    files = [
        write(tmp_path, f"{n}.csv", text) for n, text in enumerate(("a,b\n1,2\n", "b\n3\n", "", "b,a\n"))
    ]
    assert read(tmp_path, *files) == [("1", "2", None), (None, "3", None)]


def test_parquet_of_any_types(tmp_path: Path) -> None:
    duckdb.sql(f"""copy (select 0.1::decimal(10, 2) as a, 1e-7::double as "B", map {{'team': 'x'}} as tags)
        to '{tmp_path}/1.parquet'""")
    duckdb.sql(f"""copy (select timestamptz '2026-10-01 0:0Z' as b, [{{'key': 'k', 'value': 'v'}}] as tags)
        to '{tmp_path}/2.parquet'""")
    assert read(tmp_path, "1.parquet") == [("0.10", "1e-07", '{"team":"x"}')]
    assert read(tmp_path, "2.parquet")[0][2] == '[{"key":"k","value":"v"}]'


def test_json_rows(tmp_path: Path) -> None:
    name = write(
        tmp_path, "t.ndjson", '{"A": 0.10, "b": "x", "tags": {"team": "a"}, "c": [1]}\n{"b": null, "A": ""}\n'
    )
    assert read(tmp_path, name) == [("0.1", "x", '{"team":"a"}'), (None, None, None)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a,b\n1,2\n3\n", 3),
        ("a,b\n1,2,hush\n", 2),
        ('a,b\n1,2\n3,"hush\n', 3),
        (b"a,b\n1,2\n\0\0\0\0", 3),
        (b"a,b\n1,hush\xff\n", 2),
    ],
)
def test_what_is_no_row_is_told_with_its_line_and_nothing_of_it(
    tmp_path: Path, text: str | bytes, line: int
) -> None:
    name = write(tmp_path, "t.csv", text)
    with pytest.raises(SourceError, match=rf"t\.csv:{line}: this is no row of the table") as told:
        read(tmp_path, name)
    assert "hush" not in str(told.value)


def test_what_cannot_be_a_table_is_told(tmp_path: Path) -> None:
    a_csv, damaged = write(tmp_path, "t.csv", "a,b\n1,2\n"), write(tmp_path, "t.parquet", b"PAR1 hush")
    with pytest.raises(SourceError, match=r"t\.csv: there is no column c\. Is its first line"):
        read(tmp_path, a_csv, required=("a", "c"))
    with pytest.raises(SourceError, match=r"t\.parquet: the file cannot be read to its end"):
        read(tmp_path, damaged)
    with pytest.raises(SourceError, match="several forms: csv, parquet"):
        read(tmp_path, a_csv, damaged)
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"a,b\n" + os.urandom(999).hex().encode())[:-9])
    with pytest.raises(SourceError, match=r"cut\.csv\.gz"):
        read(tmp_path, "cut.csv.gz")


@pytest.mark.parametrize("text", ["\n1,hush\n", f"{'hush' * 40_000},b\n1,2\n"])
def test_a_first_line_that_is_no_header_is_told(tmp_path: Path, text: str) -> None:
    name = write(tmp_path, "t.csv", text)
    with pytest.raises(SourceError, match=r"t\.csv:1: the first line is no header") as told:
        read(tmp_path, name)
    assert "hush" not in str(told.value)


def test_a_header_that_is_none_is_not_repeated(tmp_path: Path) -> None:
    name = write(tmp_path, "t.csv", "sk-hush,tell me of my hush\n")
    with pytest.raises(SourceError, match="no column a") as told:
        read(tmp_path, name, required=("a",))
    assert "hush" not in str(told.value)


def test_each_file_has_to_have_what_is_required(tmp_path: Path) -> None:
    write(tmp_path, "1.csv", "a,b\n1,2\n")
    write(tmp_path, "2.csv", "b\n2\n")
    with pytest.raises(SourceError, match=r"2\.csv: there is no column a"):
        read(tmp_path, "1.csv", "2.csv", required=("a",))


def test_types_of_one_file_do_not_round_those_of_another(tmp_path: Path) -> None:
    exact = "123456789.123456789012"
    duckdb.sql(f"copy (select {exact}::decimal(38, 12) as a, 'x' as file) to '{tmp_path}/1.parquet'")
    duckdb.sql(f"copy (select 0.5::double as a) to '{tmp_path}/2.parquet'")
    assert read(tmp_path, "1.parquet", "2.parquet") == [("0.5", None, None), (exact, None, None)]


def test_a_table_that_grows_is_read_as_far_as_it_was_listed(tmp_path: Path) -> None:
    file = tmp_path / write(tmp_path, "t.csv", "a,b\n1,2\n3,")
    files = {str(file): file.stat().st_size}
    with file.open("a") as writer:
        writer.write('4\n5,"')
    os.utime(file, (time.time(), time.time()))
    target = tmp_path / "out.parquet"
    with duckdb.connect() as engine:
        _tables.extract("log", engine, files, WANTED, (), "select * from logged", target)
        assert engine.sql(f"select a, b from read_parquet('{target}')").fetchall() == [("1", "2")]
