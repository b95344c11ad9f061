from collections import Counter

import pytest

from basicsr.data.data_sampler import EnlargedSampler, SampleIndex


def test_an_epoch_holds_every_index_once():
    sampler = EnlargedSampler(7, 1, 0, ratio=3, seed=5)
    samples = list(sampler)
    assert len(samples) == len(sampler) == 21
    assert sorted(sample.index for sample in samples) == list(range(21))
    assert all(isinstance(sample, SampleIndex) and sample.epoch == 0 for sample in samples)
    assert [sample.index for sample in samples] != list(range(21))


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        sampler = EnlargedSampler(20, 1, 0, seed=seed)
        sampler.set_epoch(epoch)
        return [sample.index for sample in sampler]

    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)
    assert order(3, 0) != order(0, 3)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_together_see_the_samples_of_one_process(world):
    size, batch = 24, 12 // world
    ranks = [list(EnlargedSampler(size, world, rank, seed=1)) for rank in range(world)]
    single = list(EnlargedSampler(size, 1, 0, seed=1))
    for k in range(size // 12):
        together = {sample for rank in ranks for sample in rank[k * batch : (k + 1) * batch]}
        assert together == set(single[k * 12 : (k + 1) * 12])


@pytest.mark.parametrize(("size", "world"), [(7, 2), (10, 4), (2, 5)])
def test_ranks_are_equally_long_and_share_no_sample(size, world):
    ranks = [list(EnlargedSampler(size, world, rank)) for rank in range(world)]
    assert {len(rank) for rank in ranks} == {size // world}
    counts = Counter(sample.index for rank in ranks for sample in rank)
    assert set(counts.values()) <= {1}


@pytest.mark.parametrize("size", [15, 16, 17])
def test_an_epoch_has_as_many_global_batches_for_any_number_of_ranks(size):
    assert {len(EnlargedSampler(size, world, 0)) // (4 // world) for world in (1, 2, 4)} == {size // 4}


def test_set_epoch_resumes_exactly():
    sampler = EnlargedSampler(9, 2, 1, ratio=2, seed=3)
    sampler.set_epoch(4)
    whole = list(sampler)
    for start in range(len(sampler) + 1):
        resumed = EnlargedSampler(9, 2, 1, ratio=2, seed=3)
        resumed.set_epoch(4, start)
        assert list(resumed) == whole[start:]
        assert len(resumed) == len(whole)
    sampler.set_epoch(4, 5)
    sampler.set_epoch(4)
    assert list(sampler) == whole


def test_a_running_epoch_keeps_its_number():
    sampler = EnlargedSampler(4, 1, 0)
    running = iter(sampler)
    next(running)
    sampler.set_epoch(1)
    assert {sample.epoch for sample in running} == {0}


def test_without_shuffling():
    assert [sample.index for sample in EnlargedSampler(3, 1, 0, ratio=2, shuffle=False)] == list(range(6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 0), "dataset_size must be at least 1, got 0"),
        ((4, 0, 0), "num_replicas must be at least 1, got 0"),
        ((4, 1, 0, 0), "ratio must be at least 1, got 0"),
        ((4, 2, 2), r"rank must be in \[0, 2\), got 2"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"EnlargedSampler: {message}"):
        EnlargedSampler(*arguments)


@pytest.mark.parametrize("start", [-1, 5])
def test_start_out_of_range(start):
    with pytest.raises(ValueError, match=rf"start must be in \[0, 4\], got {start}"):
        EnlargedSampler(4, 1, 0).set_epoch(0, start)
