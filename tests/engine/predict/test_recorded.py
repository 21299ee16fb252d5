"""The allocator's model against recordings of real allocators, and of hand-made ones.

Whatever is put into ``traces/`` is followed: ``torch.cuda.memory._snapshot()`` of a run whose
history began before its first allocation, written by ``recorded.save``.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from memwb.engine.allocator_settings import Settings
from memwb.engine.predict.allocator import replay
from memwb.engine.predict.recorded import Recording, follow, read, save, streams

M = 2**20
TRACES = Path(__file__).parent / "traces"
FILES = sorted(TRACES.glob("*.json*"))
HAND_MADE = TRACES / "hand-made.json"
EXPANDABLE = TRACES / "hand-made-expandable.json"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_block_lands_where_it_was_recorded(path: Path) -> None:
    recording = read(path)
    found = follow(recording)
    assert found.difference == ""
    assert found.allocations == sum(e["action"] == "alloc" for e in recording.entries)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_reserved_is_predicted_without_the_recorded_segments(path: Path) -> None:
    recording = read(path)
    made = [replay(stream, recording.settings) for stream in streams(recording.entries)]
    recorded = follow(recording).highest_reserved
    if any(entry["action"] in ("segment_free", "segment_unmap") for entry in recording.entries):
        # Something went back on the way; without the reason for it the model keeps it.
        assert sum(found.highest_reserved for found in made) >= recorded
    else:
        assert sum(found.highest_reserved for found in made) == pytest.approx(recorded, rel=0.04)


def test_a_recording_by_hand() -> None:
    recording = read(HAND_MADE)
    assert recording.settings == Settings()
    # 2 + 20 + 12 MiB, 20 on another stream; 12 went back before the last 64 came.
    assert follow(recording).highest_reserved == (2 + 20 + 20 + 64) * M
    main, side = streams(recording.entries)
    assert [moment.change for moment in side.moments] == [2 * M, -2 * M]
    found = replay(main, recording.settings)
    assert found.highest_reserved == (2 + 20 + 12 + 64) * M
    # 3, 2 and 12.5 MiB, 64 for 63 (a rest of 1 MiB), and the small blocks of 512 and 1024 B.
    assert found.highest_allocated == 81 * M + M // 2 + 1536


def test_an_expandable_recording_by_hand() -> None:
    recording = read(EXPANDABLE)
    assert recording.settings == Settings(expandable_segments=True)
    assert follow(recording).highest_reserved == (2 + 60) * M


@pytest.mark.parametrize(
    ("index", "change", "told"),
    [
        (0, {"size": 4 * M}, "asks for 2097152 B, the allocator for 4194304"),
        (2, {"addr": 0x7F0000000400}, "puts it at 0x7f0000000200, not 0x7f0000000400"),
        (10, {"action": "snapshot"}, "a segment of 12582912 B, the allocator for none"),
        (11, {"size": 30 * M}, "asks for 31457280 B, the allocator for 12582912"),
        (17, {"size": 16 * M}, "a segment of 16777216 B, the allocator for none"),
        (9, {"size": 5 * M}, "puts it at 0x7f0001000000"),
        (22, {"addr": 0x7F0000200000}, "went back, and are not free here"),
    ],
)
def test_differences_are_found(index: int, change: dict[str, Any], told: str) -> None:
    entries = copy.deepcopy(read(HAND_MADE).entries)
    entries[index] = {**entries[index], **change}
    assert told in follow(Recording(entries, Settings())).difference


def test_other_settings_are_a_difference() -> None:
    entries = read(HAND_MADE).entries
    assert follow(Recording(entries, Settings(large_segment_size=32 * M))).difference
    assert follow(Recording(entries, Settings(expandable_segments=True))).difference


def test_saving_keeps_what_is_read(tmp_path: Path) -> None:
    recording = read(HAND_MADE)
    entries = [{**entry, "frames": [], "time_us": 7} for entry in recording.entries]
    snapshot = {
        "segments": [],
        "device_traces": [entries, []],
        "allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:30"},
    }
    save(snapshot, tmp_path / "one.json.gz")
    assert read(tmp_path / "one.json.gz") == (recording.entries, Settings(max_split_size=30 * M))
    assert read(tmp_path / "one.json.gz", device=1).entries == []
    save(snapshot, tmp_path / "two.json.gz")
    assert (tmp_path / "one.json.gz").read_bytes() == (tmp_path / "two.json.gz").read_bytes()
