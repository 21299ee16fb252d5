"""A look at the data of a plan before anything starts: what is plainly wrong is told at once."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import msgspec

from memwb.engine.errors import MemwbError, nearest
from memwb.engine.plan import Plan, Workload, active

SUFFIXES = (".txt", ".jsonl", ".parquet")
WHERE = "$.workload.data"
UNREADABLE = (
    "Let yourself read it, and enter the folders that it is in; or give other data, as "
    "workload.data=builtin."
)
"""The mend where the system does not let a file be read."""
TITLE = "The data cannot be used"
_LOOK = 1 << 16


def check_data(plan: Plan) -> Plan:
    """The plan with its data file's path made absolute, so that it holds from any folder.

    Looks at the beginning of the file only; the whole is read by the script. Raises MemwbError
    for a file that is missing, unreadable, empty, of another kind, too short for one sequence,
    or without the text field.
    """
    work = plan.workload
    if work.data == "builtin":
        return plan
    path = Path(os.path.abspath(os.path.expanduser(work.data)))
    try:
        mode = _mode(path)
        if not mode:
            raise _wrong(
                f"there is no file {work.data}", "Give the path of a file, or data = 'builtin'."
            )
        if not stat.S_ISREG(mode):
            what = "is a folder" if stat.S_ISDIR(mode) else "is not a file"
            raise _wrong(f"{work.data} {what}", f"Give a file: {', '.join(SUFFIXES)}.")
        kind = path.suffix.lower()
        if kind not in SUFFIXES:
            raise _wrong(
                f"{work.data} ends in {path.suffix or 'nothing'!r}",
                f"Known kinds: {', '.join(SUFFIXES)}.",
            )
        if kind == ".txt":
            _check_text(path, work, whole="concatenation" in active(plan))
        elif kind == ".jsonl":
            _check_jsonl(path, work)
        else:
            _check_parquet(path, work)
    except OSError as error:
        reason = error.strerror or str(error)
        raise _wrong(f"{work.data} cannot be read: {reason}", UNREADABLE) from None
    return msgspec.structs.replace(plan, workload=msgspec.structs.replace(work, data=str(path)))


def _mode(path: Path) -> int:
    """What kind of thing stands there; 0 where nothing does. Raises OSError where none may look."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return 0
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return 0
        raise


def of_script(error: BaseException) -> MemwbError:
    """A script's own DataError in the words of whoever gave the plan."""
    if isinstance(error.__cause__, OSError):
        return _wrong(str(error), UNREADABLE)
    return MemwbError(TITLE, str(error), "Choose other data, or a smaller sequence_length.")


def _check_text(path: Path, work: Workload, whole: bool) -> None:
    """``whole``: rows are filled, so that the text has to be as long as one of them."""
    with path.open("rb") as stream:
        start = stream.read(_LOOK)
    _decode(start, work.data)
    if not start.strip():
        raise _empty(work.data)
    # No tokenizer makes more tokens than bytes, but for the odd one that marks a beginning.
    if whole and path.stat().st_size + 2 < work.sequence_length:
        raise _wrong(
            f"{work.data} holds {path.stat().st_size} bytes of text, too few for one sequence "
            f"of {work.sequence_length} tokens",
            "Give more text, or a smaller workload.sequence_length.",
        )


def _check_jsonl(path: Path, work: Workload) -> None:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                return _check_record(line, number, work)
    raise _empty(work.data)


def _check_record(line: bytes, number: int, work: Workload) -> None:
    where = f"{work.data}, line {number}"
    try:
        record: Any = json.loads(_decode(line, work.data))
    except (json.JSONDecodeError, RecursionError) as error:
        raise _wrong(f"{where} is not JSON: {error}", "Give one JSON object a line.") from None
    if not isinstance(record, dict):
        raise _wrong(f"{where} is not a JSON object", "Give one JSON object a line.")
    if work.text_field not in record:
        raise _no_field(where, work.text_field, [str(key) for key in record])
    if not isinstance(record[work.text_field], str):
        kind = type(record[work.text_field]).__name__
        raise _wrong(
            f"{where}: field {work.text_field!r} holds {kind}, not text",
            "Set workload.text_field to the field that holds the text.",
        )


def _check_parquet(path: Path, work: Workload) -> None:
    if not path.stat().st_size:
        raise _empty(work.data)
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise _wrong(f"{work.data} needs pyarrow to be read", "pip install pyarrow") from None
    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise _wrong(f"{work.data} is not a parquet file: {error}", "Give another file.") from None
    schema = file.schema_arrow
    if work.text_field not in schema.names:
        raise _no_field(work.data, work.text_field, schema.names)
    kind = schema.field(work.text_field).type
    # A dictionary is how texts that repeat are stored; they are read as they are.
    text = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    types = pyarrow.types
    if not (types.is_string(text) or types.is_large_string(text) or types.is_string_view(text)):
        raise _wrong(
            f"{work.data}: column {work.text_field!r} holds {kind}, not text",
            "Set workload.text_field to the column that holds the text.",
        )
    if not file.metadata.num_rows:
        raise _empty(work.data)


def _decode(data: bytes, name: str) -> str:
    """The data as UTF-8; a character cut off at the very end is no error."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(data) == _LOOK and error.start >= len(data) - 3:
            return data[: error.start].decode("utf-8-sig")
        raise _wrong(
            f"{name} is not UTF-8 text: {error.reason} at byte {error.start}",
            "Save it as UTF-8.",
        ) from None


def _empty(name: str) -> MemwbError:
    return _wrong(f"{name} is empty", "Give a file with text in it.")


def _no_field(where: str, field: str, known: list[str]) -> MemwbError:
    return MemwbError(
        "The data has no such field",
        f"$.workload.text_field: {where} has no field {field!r}; it has {', '.join(known)}",
        f"{nearest(field, known)} Set workload.text_field to the one with the text.".strip(),
    )


def _wrong(what: str, fix: str) -> MemwbError:
    return MemwbError(TITLE, f"{WHERE}: {what}", fix)
