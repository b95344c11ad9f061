import operator
import os

import pytest

from basicsr.engine.parallel import in_parallel


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
