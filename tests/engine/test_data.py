"""The look at the data: each kind of bad file is told by its own words, before anything starts."""

from __future__ import annotations

import errno
import os
from argparse import Namespace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from memwb.engine.data import check_data, of_script
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan, Workload, plan_from
from memwb.engine.recipe import read_documents, read_tokens

TEXT = "The quick brown fox jumps over the lazy dog. " * 10


def look(data: Path | str, field: str = "text", length: int = 64) -> Plan:
    work = Workload(data=str(data), text_field=field, sequence_length=length)
    return check_data(Plan(model="tiny", workload=work))


def test_builtin_needs_no_file() -> None:
    assert look("builtin").workload.data == "builtin"


def test_good_files_pass_and_their_paths_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text(TEXT)
    Path("a.jsonl").write_text('\n{"body": "text", "n": 1}\n')
    parquet.write_table(pa.table({"text": [TEXT]}), "a.parquet")
    assert look("a.txt").workload.data == str(tmp_path / "a.txt")
    assert look("./a.jsonl", "body").workload.data == str(tmp_path / "a.jsonl")
    assert look("a.parquet").workload.data == str(tmp_path / "a.parquet")


def test_a_character_cut_by_the_look_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"x" + "é".encode() * (1 << 16))
    assert look(file)


def test_capitals_and_byte_order_marks_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "A.TXT").write_text(TEXT)
    (tmp_path / "A.JSONL").write_text('{"text": "text"}', encoding="utf-8-sig")
    parquet.write_table(pa.table({"text": [TEXT]}), tmp_path / "A.PARQUET")
    for name in ("A.TXT", "A.JSONL", "A.PARQUET"):
        assert look(tmp_path / name)
        assert list(read_documents(str(tmp_path / name), "text"))


def test_a_dictionary_encoded_column_is_text(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode()}), file)
    assert look(file)
    assert list(read_documents(str(file), "text")) == ["a", "b", "a"]
    parquet.write_table(pa.table({"text": pa.array([1, 2, 1]).dictionary_encode()}), file)
    with pytest.raises(MemwbError, match="not text"):
        look(file)


def test_a_text_shorter_than_a_row_will_do_where_rows_are_not_filled(tmp_path: Path) -> None:
    file = tmp_path / "short.txt"
    file.write_text("just three words")
    data = {"data": str(file), "sequence_length": 64}
    for name in ("padding", "length_grouping", "packing"):
        assert check_data(plan_from({"model": "x", "workload": data, "techniques": {name: {}}}))


def test_blank_lines_stand_between_the_documents_of_a_text(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\n \none\r\ntwo\n\n\t\n\nthree".encode("utf-8-sig"))
    assert list(read_documents(str(file), "text")) == ["one\ntwo\n", "three"]


def test_a_text_without_blank_lines_or_any_lines_is_not_read_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    million = 1 << 20
    for text in ("x" * (million + 5), "123456\n" * (million // 7 + 9)):
        file.write_text(text)
        first, second = read_documents(str(file), "text")
        assert million <= len(first) < million + 7 and first + second == text


def test_documents_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    """So that a burst on a file of any size starts at once."""
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "fine"}\nnot json, and never read')
    args = Namespace(data=str(file), text_field="text")
    assert next(read_tokens(args, None, 300)).tolist() == list(b"fine")


BAD = {
    "empty.txt": (b"", "is empty"),
    "blank.txt": (b" \n\n", "is empty"),
    "short.txt": (b"just three words", "16 bytes .* too few for one sequence of 64 tokens"),
    "latin.txt": ("café".encode("latin-1") * 99, "is not UTF-8 text"),
    "data.csv": (b"a,b", r"ends in '\.csv'"),
    "data": (b"a", "ends in 'nothing'"),
    "empty.jsonl": (b"\n \n", "is empty"),
    "list.jsonl": (b"[1]", "line 1 is not a JSON object"),
    "broken.jsonl": (b'\n{"text": ', "line 2 is not JSON"),
    "number.jsonl": (b'{"text": 7}', "holds int, not text"),
    "other.jsonl": (b'{"texts": "a"}', r"has no field 'text'; it has texts\n.*mean 'texts'"),
    "deep.jsonl": (b"[" * 100_000, "line 1 is not JSON"),
    "empty.parquet": (b"", "is empty"),
    "broken.parquet": (b"PAR1 and no more", "is not a parquet file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_told_by_its_own_words(tmp_path: Path, name: str) -> None:
    content, words = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MemwbError, match=r"(?s)\$\.workload\..*" + words):
        look(tmp_path / name)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"body": ["a"]}, "has no field 'text'; it has body"),
        ({"text": [1]}, "holds int64, not text"),
        ({"text": pa.array([], pa.string())}, "is empty"),
    ],
)
def test_a_bad_parquet_file(tmp_path: Path, columns: dict[str, object], words: str) -> None:
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(MemwbError, match=words):
        look(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "data",
    ["/nowhere/a.txt", "a\0b.txt", "x" * 5000 + ".txt"],
    ids=["nowhere", "zero byte", "long"],
)
def test_a_missing_file(data: str) -> None:
    with pytest.raises(MemwbError, match="there is no file"):
        look(data)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(MemwbError, match="is a folder"):
        look(tmp_path)
    with pytest.raises(MemwbError, match="is not a file"):
        look("/dev/null")


DENIED = PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize("call", ["stat", "open"])
def test_what_may_not_be_read_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The folder may not be entered, or the file not opened: the tests' user may be root."""
    file = tmp_path / "a.txt"
    file.write_text(TEXT)

    def deny(*_: object, **__: object) -> None:
        raise DENIED

    monkeypatch.setattr(os if call == "stat" else Path, call, deny)
    with pytest.raises(MemwbError) as caught:
        look(file)
    with pytest.raises(ValueError) as script:
        list(read_documents(str(file), "text"))
    monkeypatch.undo()
    assert caught.value.what == f"$.workload.data: {file} cannot be read: Permission denied"
    assert "Let yourself read it" in caught.value.fix
    assert type(script.value).__name__ == "DataError"
    assert str(script.value) == f"{file} cannot be read: Permission denied"
    # By a script that a burst or a prediction runs, it is the same error.
    told = of_script(script.value)
    assert (told.title, told.what, told.fix) == (
        caught.value.title,
        caught.value.what,
        caught.value.fix,
    )


def test_the_home_of_a_user_that_is_none_is_no_file() -> None:
    with pytest.raises(ValueError, match="there is no data file ~nobody-here"):
        list(read_documents("~nobody-here/a.txt", "text"))
