import errno
import operator
import os

import pytest

from basicsr.engine.parallel import MAX_REPORTED, all_in_parallel, in_parallel, raise_if_any_failed


def touch_and_fail(path):
    if path.name == "1":
        raise ValueError("number 1 is bad")
    path.touch()


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers):
    assert list(in_parallel(abs, range(-50, 0), workers)) == list(range(50, 0, -1))
    assert list(in_parallel(abs, [], workers)) == []


def test_it_runs_elsewhere():
    (process,) = set(in_parallel(operator.methodcaller("__call__"), [os.getpid], 1))
    assert process != os.getpid()


def test_a_failure_stops_the_others(tmp_path):
    paths = [tmp_path / str(number) for number in range(1000)]
    with pytest.raises(ValueError, match="number 1 is bad"):
        list(in_parallel(touch_and_fail, paths, 1))
    assert len(list(tmp_path.iterdir())) < 100


def test_others_go_on_where_one_fails(tmp_path):
    paths = [tmp_path / str(number) for number in range(20)]
    with pytest.raises(ValueError, match=r"1 of 20 images failed, the others are done.*: number 1 is bad$"):
        all_in_parallel(touch_and_fail, paths, 2)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths} - {"1"}
    all_in_parallel(touch_and_fail, paths[2:], 1)


def write_to_full_disk(path):
    path.touch()
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_stops_all(tmp_path):
    with pytest.raises(OSError, match="No space left"):
        all_in_parallel(write_to_full_disk, [tmp_path / str(number) for number in range(1000)], 1)
    assert len(list(tmp_path.iterdir())) < 100


def test_many_failures_are_counted():
    with pytest.raises(ValueError, match=r"25 of 30 images.*; and 5 more$") as caught:
        raise_if_any_failed([f"x{k}" for k in range(25)], 30)
    assert str(caught.value).count("x") == MAX_REPORTED
    raise_if_any_failed([], 30)
