"""Threads with bounded queues: order, errors of any of them, and the end of all."""

import threading
import time

import pytest

from basicsr.inference.video.threads import StoppedError, Stopwatch, Team


def send(items, channel):
    for item in items:
        channel.put(item)
    channel.close()


def test_items_arrive_in_order_and_the_queue_is_bounded():
    sent = []

    def counting():
        for k in range(20):
            sent.append(k)
            yield k

    received = []
    with Team() as team:
        channel = team.channel(2)
        team.start(send, counting(), channel)
        for item in channel:
            time.sleep(0.005)
            assert len(sent) <= item + 4  # the one received, two queued, one in the hand
            received.append(item)
    assert received == list(range(20))


def test_an_error_of_a_thread_is_raised_where_it_is_waited_for():
    def failing():
        yield 1
        raise ValueError("the file is damaged")

    before = threading.active_count()
    with pytest.raises(ValueError, match="the file is damaged"), Team() as team:
        channel = team.channel(2)
        team.start(send, failing(), channel)
        list(channel)
    assert threading.active_count() == before


def test_an_error_of_the_block_stops_threads_that_wait():
    ended = []

    def waiting(channel):
        try:
            send(iter(int, 1), channel)  # without end
        except StoppedError:
            ended.append(True)
            raise

    with pytest.raises(KeyboardInterrupt), Team() as team:
        team.start(waiting, team.channel(1))
        raise KeyboardInterrupt
    assert ended == [True]


def test_a_stopwatch_counts_the_making_of_items_alone():
    watch = Stopwatch()
    for _ in watch.during(range(3)):
        time.sleep(0.05)
    assert watch.seconds < 0.05
