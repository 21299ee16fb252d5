"""Each rule of the allocator's model on a sequence worked out by hand."""

from __future__ import annotations

import pytest

from memwb.engine.allocator_settings import Settings, rounded, settings_from, settings_of
from memwb.engine.errors import MemwbError
from memwb.engine.plan import Plan
from memwb.engine.predict.allocator import Allocator, OutOfMemory, replay, segment_size
from memwb.engine.predict.stream import Stream
from memwb.engine.predict.targets import target_named
from memwb.engine.predict.words import notes_on
from memwb.engine.trainer.trace import Moment

M = 2**20
PLAIN = Settings()
EXPANDABLE = Settings(expandable_segments=True)


def held(allocator: Allocator) -> tuple[float, float]:
    """Allocated and reserved MiB."""
    return allocator.allocated / M, allocator.reserved / M


@pytest.mark.parametrize(
    ("request_", "block"), [(1, 512), (512, 512), (513, 1024), (1_000_000, 1_000_448)]
)
def test_requests_are_rounded_to_512(request_: int, block: int) -> None:
    assert rounded(request_, PLAIN) == block
    assert Allocator(PLAIN).malloc(request_).size == block


def test_requests_are_rounded_to_divisions_of_powers_of_two() -> None:
    # Between 1024 and 2048 KiB four divisions are 256 KiB each.
    settings = settings_from("roundup_power2_divisions:4")
    assert rounded(1200 * 1024, settings) == 1280 * 1024
    assert rounded(1280 * 1024, settings) == 1280 * 1024
    # 4 × 512 B: at that size and below it stays with 512.
    assert rounded(2000, settings) == 2048 and rounded(600, settings) == 1024
    # 2.1 KiB lies in 2 … 4 KiB, whose quarters are 512 B.
    assert rounded(2100, settings) == 2560
    listed = settings_from("roundup_power2_divisions:[2:8,8:2,>:1]")
    # 2 MiB in eighths of 256 KiB; 4 MiB were not named; 8 MiB in halves; above 8 MiB plain.
    assert rounded(2 * M + 1, listed) == 2 * M + 256 * 1024
    assert rounded(4 * M + 1, listed) == 4 * M + 512
    assert rounded(8 * M + 1, listed) == 12 * M
    assert rounded(16 * M + 1, listed) == 16 * M + 512
    # The first boundary's hold below it too: 1 MiB in eighths of 128 KiB.
    assert rounded(M + 1, listed) == M + 128 * 1024


def test_what_the_driver_is_asked_for() -> None:
    sizes = [512, M, M + 512, 10 * M - 512, 10 * M, 10 * M + 512, 13 * M]
    segments = [2 * M, 2 * M, 20 * M, 20 * M, 10 * M, 12 * M, 14 * M]
    assert [segment_size(size, PLAIN) for size in sizes] == segments
    assert segment_size(3 * M, settings_from("large_segment_size_mb:64")) == 64 * M


def test_small_requests_share_segments_of_2_mib() -> None:
    allocator = Allocator(PLAIN)
    first, second = allocator.malloc(1), allocator.malloc(600)
    assert second.start == first.start + 512  # the rest of the segment, one block further
    assert (allocator.allocated, allocator.reserved) == (512 + 1024, 2 * M)
    # 1 MiB is still small; two do not fit beside 1.5 KiB.
    allocator.malloc(M)
    assert allocator.reserved == 2 * M
    allocator.malloc(M)
    assert allocator.reserved == 4 * M
    # One byte more is large and brings a segment of 20 MiB.
    allocator.malloc(M + 1)
    assert allocator.reserved == 24 * M
    assert allocator.allocated == 512 + 1024 + M + M + (M + 512)


def test_a_rest_of_1_mib_is_not_split_off_a_large_block() -> None:
    allocator = Allocator(PLAIN)
    allocator.malloc(9 * M)  # of 20 MiB: 11 are left
    assert held(allocator) == (9, 20)
    block = allocator.malloc(10 * M)  # of these 11 MiB: a rest of 1 MiB is not worth it
    assert block.size == 11 * M and held(allocator) == (20, 20)
    allocator.free(block)
    assert held(allocator) == (9, 20)
    assert allocator.malloc(10 * M - 512).size == 10 * M - 512  # a rest of 1 MiB + 512 is
    # 11 MiB need a segment of 12, and 10.5 MiB one that is split.
    assert Allocator(PLAIN).malloc(11 * M).size == 12 * M
    assert Allocator(PLAIN).malloc(10 * M + M // 2).size == 10 * M + M // 2


def test_best_fit_is_the_smallest_and_then_the_lowest() -> None:
    allocator = Allocator(PLAIN)
    thirty, twelve, other, twenty = (allocator.malloc(size * M) for size in (30, 12, 12, 20))
    for block in (twenty, other, thirty, twelve):
        allocator.free(block)
    assert allocator.malloc(11 * M) == twelve  # not the other: a higher address
    assert allocator.malloc(11 * M) == other
    assert allocator.malloc(11 * M).start == twenty.start  # 9 MiB of it are left
    assert allocator.malloc(9 * M).start == twenty.start + 11 * M
    assert held(allocator) == (12 + 12 + 11 + 9, 74)


def test_free_neighbours_are_joined() -> None:
    allocator = Allocator(PLAIN)
    a, b, c, d = (allocator.malloc(5 * M) for _ in range(4))
    assert held(allocator) == (20, 20)
    allocator.free(a)
    allocator.free(c)
    # Twice 5 MiB with b between them: 8 MiB need a new segment.
    e = allocator.malloc(8 * M)
    assert held(allocator) == (18, 40)
    allocator.free(e)
    allocator.free(b)
    # a, b and c are 15 MiB now, less than the 20 MiB that e left: best fit for 12.
    assert allocator.malloc(12 * M).start == a.start
    allocator.free(d)
    assert allocator.malloc(8 * M).start == a.start + 12 * M  # 3 MiB of c and 5 of d


def test_neighbours_of_another_segment_stay_apart() -> None:
    places = iter([100 * M, 112 * M])
    allocator = Allocator(PLAIN, place=lambda size, small: next(places))
    first, second = allocator.malloc(12 * M), allocator.malloc(12 * M)
    assert second.start == first.start + 12 * M
    allocator.free(first)
    allocator.free(second)
    assert allocator.large.starts == {100 * M: 12 * M, 112 * M: 12 * M}


def test_what_is_cached_goes_back_when_memory_is_short() -> None:
    allocator = Allocator(PLAIN, capacity=40 * M)
    allocator.free(allocator.malloc(5 * M))
    kept = allocator.malloc(600)
    assert held(allocator) == (kept.size / M, 22)
    block = allocator.malloc(38 * M)  # 22 + 38 > 40: the 20 MiB go back, the small segment stays
    assert allocator.reserved == 40 * M and allocator.highest_reserved == 40 * M
    with pytest.raises(OutOfMemory):
        allocator.malloc(2 * M)
    allocator.free(block)
    allocator.malloc(2 * M)  # splits the 38 MiB: now they cannot go back
    with pytest.raises(OutOfMemory):
        allocator.malloc(37 * M)


def test_blocks_of_max_split_size_are_for_requests_of_that_size() -> None:
    allocator = Allocator(settings_from("max_split_size_mb:40"), capacity=None)
    sixty = allocator.malloc(60 * M)
    allocator.free(sixty)
    allocator.malloc(30 * M)  # below 40: not from the 60, which would be split
    assert held(allocator) == (30, 90)
    assert allocator.malloc(40 * M + 512) == sixty  # whole: 60 < 40 + 512 B + 20
    assert held(allocator) == (90, 90)
    allocator.free(sixty)
    allocator.malloc(40 * M)  # 60 = 40 + 20: no longer less than 20 too large
    assert held(allocator) == (70, 130)
    rounding = settings_from("max_split_size_mb:40,max_non_split_rounding_mb:21")
    wider = Allocator(rounding)
    wider.free(wider.malloc(60 * M))
    assert wider.malloc(40 * M).size == 60 * M


def test_oversize_blocks_go_back_first() -> None:
    settings = settings_from("max_split_size_mb:40")
    allocator = Allocator(settings, capacity=140 * M)
    blocks = [allocator.malloc(size * M) for size in (12, 44, 42)]
    for block in blocks:
        allocator.free(block)
    # 98 MiB are held, 50 more do not fit: the 44 and then the 42 go, the 12 stay.
    allocator.malloc(70 * M)
    assert held(allocator) == (70, 82)
    allocator = Allocator(settings, capacity=140 * M)
    for block in [allocator.malloc(size * M) for size in (12, 44, 70)]:
        allocator.free(block)
    # 126 held. 30 need a block of at least 40 back: the smallest such is enough.
    allocator.malloc(30 * M)
    assert held(allocator) == (30, 12 + 70 + 30)


def test_garbage_is_collected_above_the_threshold() -> None:
    settings = settings_from("garbage_collection_threshold:0.5,per_process_memory_fraction:0.9")
    allocator = Allocator(settings, capacity=100 * M)  # 90 MiB allowed, 45 the threshold
    a, b, c = (allocator.malloc(size * M) for size in (12, 14, 16))  # searches 1, 2, 3
    allocator.free(a)
    allocator.free(b)
    allocator.malloc(18 * M)  # search 4: 42 held, below the threshold
    assert held(allocator) == (34, 60)
    allocator.free(c)
    # Search 5: 60 held, 15 above. Ages: a and b 5 − 3 = 2, c 5 − 4 = 1, in the mean 5/3.
    # a and b go: 26 are enough.
    allocator.malloc(30 * M)
    assert held(allocator) == (48, 60 - 26 + 30)
    # Without a fraction the threshold does nothing, as in torch.
    allocator = Allocator(settings_from("garbage_collection_threshold:0.1"), capacity=100 * M)
    allocator.free(allocator.malloc(12 * M))
    allocator.malloc(30 * M)
    assert held(allocator) == (30, 42)


def test_a_fraction_is_a_limit() -> None:
    allocator = Allocator(settings_from("per_process_memory_fraction:0.5"), capacity=100 * M)
    allocator.malloc(40 * M)
    with pytest.raises(OutOfMemory):
        allocator.malloc(11 * M)


def test_expandable_segments_grow_by_pages() -> None:
    allocator = Allocator(EXPANDABLE)
    allocator.malloc(1)
    assert allocator.reserved == 2 * M  # small pages are 2 MiB
    three = allocator.malloc(3 * M)
    assert allocator.reserved == 22 * M  # large ones 20
    # 17 MiB are left of the page; for 30 one more is mapped, and all is one segment.
    thirty = allocator.malloc(30 * M)
    assert thirty.start == three.start + 3 * M and allocator.reserved == 42 * M
    # Of the 7 MiB that are left even a rest of 512 B is split off.
    assert allocator.malloc(7 * M - 512).size == 7 * M - 512
    # The next page joins those 512 B, and the block begins there.
    assert allocator.malloc(M + 512).start == thirty.start + 37 * M - 512
    assert allocator.reserved == 62 * M


def test_free_pages_go_back_and_holes_are_filled() -> None:
    allocator = Allocator(EXPANDABLE)
    a, b, c = (allocator.malloc(20 * M) for _ in range(3))
    allocator.free(b)
    allocator.empty_cache()
    assert held(allocator) == (40, 40)
    d = allocator.malloc(30 * M)  # the hole of 20 is too small
    assert d.start == c.start + 20 * M and held(allocator) == (70, 80)
    assert allocator.malloc(20 * M) == b  # the lowest addresses with room
    assert held(allocator) == (90, 100)
    allocator.free(d)
    allocator.free(allocator.malloc(5 * M))
    small = allocator.malloc(5 * M)
    allocator.empty_cache()  # 5 of 40 MiB are in use: only the second page is wholly free
    assert small.start == d.start and held(allocator) == (65, 80)
    for block in (a, b, c, small):
        allocator.free(block)
    allocator.empty_cache()
    assert held(allocator) == (0, 0) and not allocator.large.segments


def test_the_growing_end_is_taken_last() -> None:
    allocator = Allocator(EXPANDABLE)
    eight, between = allocator.malloc(8 * M), allocator.malloc(7 * M)
    allocator.free(eight)
    # 8 MiB are free before, 5 at the end, which could grow: the end counts as larger.
    assert allocator.malloc(4 * M).start == eight.start
    assert allocator.malloc(5 * M).start == between.start + 7 * M


def test_expandable_pages_that_do_not_fit() -> None:
    allocator = Allocator(EXPANDABLE, capacity=50 * M)
    a, b = allocator.malloc(15 * M), allocator.malloc(15 * M)
    allocator.free(a)
    # 10 MiB are left at the end, 15 are free before: 20 need a page more than 50 MiB have.
    with pytest.raises(OutOfMemory):
        allocator.malloc(20 * M)
    allocator.free(b)
    assert allocator.malloc(40 * M).start == a.start


def moments(*changes: tuple[int, int]) -> Stream:
    """Changes of storages; (-1, 0) begins a phase."""
    return Stream([Moment(float(i), 1, "", *change) for i, change in enumerate(changes)], {})


def test_replay_tells_every_moment() -> None:
    stream = moments((-1, 0), (0, 100), (1, 5 * M), (-1, 0), (0, -100), (2, 6 * M), (1, -5 * M))
    found = replay(stream, PLAIN)
    allocated = [0, 512, 5 * M + 512, 5 * M + 512, 5 * M, 11 * M, 6 * M]
    assert list(found.allocated) == allocated
    assert [size // M for size in found.reserved] == [0, 2, 22, 22, 22, 22, 22]
    assert (found.highest_allocated, found.highest_at) == (11 * M, 5)
    assert (found.highest_reserved, found.ran_out) == (22 * M, None)


def test_replay_of_a_growing_storage_holds_both() -> None:
    stream = moments((0, 15 * M), (0, 15 * M), (0, -20 * M), (0, -10 * M))
    found = replay(stream, PLAIN)
    # 15 MiB have a segment of 16, and 30 one of 30 beside it, all of it (rests of 1 and 0).
    # Then 10 MiB are the best fit of 16: 6 are split off.
    assert [size // M for size in found.allocated] == [16, 30, 10, 0]
    assert [size // M for size in found.reserved] == [16, 46, 46, 46]


def test_replay_goes_on_where_memory_ends() -> None:
    stream = moments((0, 30 * M), (1, 12 * M), (1, -12 * M), (2, 14 * M), (3, 40 * M))
    found = replay(stream, PLAIN, capacity=45 * M)
    # At 2 the 12 MiB are cached; at 3 they go back for the 14; 40 more are too many.
    assert [size // M for size in found.reserved] == [30, 42, 42, 44, 84]
    assert found.ran_out == 4 and found.highest_allocated == 84 * M
    assert replay(stream, PLAIN, capacity=84 * M).ran_out is None
    assert replay(stream, EXPANDABLE, capacity=45 * M).ran_out == 1


def test_replay_of_nothing() -> None:
    assert replay(Stream([], {}), PLAIN, capacity=0)[2:] == (0, -1, 0, None)


def test_settings_are_read() -> None:
    text = (
        " max_split_size_mb: 128, garbage_collection_threshold:0.8,expandable_segments:True,"
        "backend:native,pinned_use_background_threads:True,roundup_power2_divisions:[256:1,>:2],"
    )
    assert settings_from(text) == Settings(
        max_split_size=128 * M,
        garbage_collection_threshold=0.8,
        expandable_segments=True,
        roundup_power2_divisions=(1,) * 9 + (2,) * 7,
    )
    assert settings_from("") == Settings() == settings_of({})
    large = settings_from("max_split_size_mb:64,large_segment_size_mb:64")
    assert large == Settings(
        max_split_size=64 * M, large_segment_size=64 * M, max_non_split_rounding=64 * M
    )
    both = {"PYTORCH_ALLOC_CONF": "", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    assert settings_of(both) == EXPANDABLE
    assert settings_of({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}) == EXPANDABLE


@pytest.mark.parametrize("variable", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_a_limit_of_the_process_is_refused_with_the_variable_that_sets_it(variable: str) -> None:
    with pytest.raises(MemwbError, match="per_process_memory_fraction") as caught:
        settings_of({variable: "garbage_collection_threshold:0.8,per_process_memory_fraction:0.5"})
    assert variable in caught.value.title and variable in caught.value.fix
    assert settings_of({variable: "per_process_memory_fraction:1.0"}) == Settings()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("expandable_segments:true", "True or False"),
        ("expandable_segment:True", "did you mean 'expandable_segments'?"),
        ("max_split_size_mb", "key:value"),
        ("max_split_size_mb:19", "an integer ≥ 20"),
        ("max_split_size_mb:64,large_segment_size_mb:65", "an integer ≥ 65"),
        ("max_split_size_mb:many", "an integer ≥ 20"),
        ("max_non_split_rounding_mb:-20", "an integer ≥ 20"),
        ("large_segment_size_mb:10", "an integer > 10"),
        ("garbage_collection_threshold:1.0", "between 0 and 1"),
        ("garbage_collection_threshold:nan", "between 0 and 1"),
        ("per_process_memory_fraction:x", "from 0 to 1"),
        ("roundup_power2_divisions:3", "a power of 2"),
        ("roundup_power2_divisions:[64:3]", "a power of 2, or 0"),
        ("roundup_power2_divisions:[65:4]", "MiB before the colon"),
        ("roundup_power2_divisions:[64]", "a power of 2, or 0"),
        ("roundup_power2_divisions:[64:4", "a bracket without its other half"),
        ("max_split_size_mb:64,,expandable_segments:True", "a part without a key"),
        ("backend:cudaMallocAsync", "does not model"),
        ("throw_on_cudamalloc_oom:True", "does not model"),
    ],
)
def test_wrong_settings_are_told(text: str, told: str) -> None:
    with pytest.raises(MemwbError) as error:
        settings_from(text)
    assert told in str(error.value)


@pytest.mark.parametrize("name", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_the_variable_is_named_where_it_is_wrong_and_where_it_was_applied(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MemwbError) as error:
        settings_of({name: "max_split_size_mb:x"})
    assert error.value.what.startswith(f"{name}: 'x'")
    for other in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.delenv(other, raising=False)
    target, plan = target_named("t4"), Plan(model="tiny")
    assert not any(name in note for note in notes_on(plan, target))
    monkeypatch.setenv(name, "expandable_segments:True")
    assert f"This shell's {name}=expandable_segments:True was applied." in notes_on(plan, target)
    assert not any(name in note for note in notes_on(plan, target_named("cpu")))
