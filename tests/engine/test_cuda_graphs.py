"""What decides whether a function runs eagerly, is recorded or repeated; with a backend that needs no CUDA."""

import logging

import pytest
import torch
from fake_graphs import FakeBackend

from basicsr.archs import atdu_arch, build_network
from basicsr.engine import cuda_graphs
from basicsr.engine.cuda_graphs import GraphedForward, first_error, reason_of

CPU = torch.device("cpu")


def doubled(x):
    return 2 * x


def image(side=8, value=1.0):
    return torch.full((1, 3, side, side), value)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


class TestGraphs:
    def test_the_second_of_a_kind_is_recorded_and_later_ones_repeated(self):
        backend = FakeBackend()
        graphed = GraphedForward(doubled, CPU, backend)
        seen = []
        for k in range(5):
            assert torch.equal(graphed(image(value=k)), image(value=2 * k))
            seen.append(list(backend.done))
            backend.done.clear()
        assert seen == [[], ["watch", "record"], ["replay"], ["replay"], ["replay"]]

    def test_outputs_have_memory_of_their_own(self):
        graphed = GraphedForward(doubled, CPU, FakeBackend())
        outputs = [graphed(image(value=k)) for k in range(6)]
        assert all(torch.equal(output, image(value=2 * k)) for k, output in enumerate(outputs))
        assert len({output.data_ptr() for output in outputs}) == 6

    def test_the_input_may_change_afterwards(self):
        graphed = GraphedForward(doubled, CPU, FakeBackend())
        x = image(value=3)
        for _ in range(2):
            graphed(x)
        x.zero_()
        assert torch.equal(graphed(image(value=5)), image(value=10))

    @pytest.mark.parametrize(
        "other",
        [image(9), image().double(), image().to(memory_format=torch.channels_last), image().expand(2, 3, 8, 8)],
        ids=["shape", "type", "channels last", "batch"],
    )
    def test_another_kind_has_a_graph_of_its_own(self, other):
        backend = FakeBackend()
        graphed = GraphedForward(doubled, CPU, backend)
        for x in (image(), image(), other, other, image(), other):
            assert torch.equal(graphed(x), 2 * x)
        assert (backend.count("record"), backend.count("replay")) == (2, 2)

    def test_images_that_all_differ_are_never_recorded(self):
        backend = FakeBackend()
        graphed = GraphedForward(doubled, CPU, backend)
        for side in range(4, 200):
            graphed(image(side))
        assert backend.done == []
        assert len(graphed._seen) == cuda_graphs.MAX_KINDS_SEEN

    def test_the_longest_unused_graph_goes(self):
        backend = FakeBackend()
        graphed = GraphedForward(doubled, CPU, backend)
        sides = list(range(4, 4 + cuda_graphs.MAX_GRAPHS))
        for side in [*sides, *sides, sides[0]]:
            graphed(image(side))
        for _ in range(2):
            graphed(image(99))
        assert backend.alive == cuda_graphs.MAX_GRAPHS
        backend.done.clear()
        graphed(image(sides[0]))
        assert backend.done == ["replay"]
        graphed(image(sides[1]))
        assert backend.done[-2:] == ["watch", "record"]
        assert "wait" in backend.done

    def test_dropping_frees_all(self):
        backend = FakeBackend()
        graphed = GraphedForward(doubled, CPU, backend)
        for side in (4, 4, 5, 5):
            graphed(image(side))
        graphed.drop()
        assert backend.alive == 0
        assert backend.done[-2:] == ["wait", "forget"]


class TestAsEver:
    def test_on_other_devices(self):
        assert torch.equal(GraphedForward(doubled, CPU)(image()), image(value=2))

    def test_with_gradients_and_in_another_stream(self):
        backend = FakeBackend()
        graphed = GraphedForward(doubled, CPU, backend)
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.ones(1, 3, 8, 8, requires_grad=True)
            for _ in range(3):
                graphed(x).sum().backward()
        backend.usable = False
        for _ in range(3):
            graphed(image())
        assert backend.done == []

    def test_what_makes_the_cpu_wait_is_said_once_and_not_tried_again(self, caplog):
        caplog.set_level(logging.INFO, logger="basicsr")
        backend = FakeBackend(waits="plugin.py:7 makes the CPU wait for the GPU")
        graphed = GraphedForward(doubled, CPU, backend)
        for k in range(5):
            assert torch.equal(graphed(image(value=k)), image(value=2 * k))
        assert backend.count("watch") == 1
        assert backend.count("record") == 0
        assert caplog.messages == ["Without CUDA graphs in evaluation: plugin.py:7 makes the CPU wait for the GPU"]

    def test_what_cannot_be_recorded_is_said_once_and_not_tried_again(self, caplog):
        caplog.set_level(logging.INFO, logger="basicsr")
        backend = FakeBackend(fails=RuntimeError("operation not permitted when stream is capturing"))
        graphed = GraphedForward(doubled, CPU, backend)
        for k in range(5):
            assert torch.equal(graphed(image(value=k)), image(value=2 * k))
        assert backend.count("record") == 1
        (message,) = caplog.messages
        assert message.startswith(
            "Without CUDA graphs in evaluation: operation not permitted when stream is capturing (/"
        )

    def test_a_size_whose_graph_does_not_fit_runs_as_ever_and_others_have_graphs(self, caplog):
        caplog.set_level(logging.INFO, logger="basicsr")
        backend = FakeBackend(fails=torch.OutOfMemoryError("CUDA out of memory"))
        graphed = GraphedForward(doubled, CPU, backend)
        for k in range(4):
            assert torch.equal(graphed(image(value=k)), image(value=2 * k))
        backend.fails = None
        for _ in range(3):
            graphed(image(4))
        assert (backend.count("record"), backend.count("replay")) == (2, 1)
        assert caplog.messages == []

    def test_an_image_that_only_fits_without_graphs(self):
        backend = FakeBackend()

        def function(x):
            if x.shape[-1] > 50 and backend.alive:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return 2 * x

        graphed = GraphedForward(function, CPU, backend)
        for side in (4, 4, 60):
            assert torch.equal(graphed(image(side)), image(side, 2))
        assert backend.alive == 0

    def test_memory_that_runs_out_without_graphs_is_for_the_caller(self):
        def function(x):
            raise torch.OutOfMemoryError("CUDA out of memory")

        graphed = GraphedForward(function, CPU, FakeBackend())
        for _ in range(3):
            with pytest.raises(torch.OutOfMemoryError):
                graphed(image())


def test_the_first_error_is_the_reason():
    try:
        try:
            raise ValueError("a plug-in reads a tensor\nand more")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")
    except RuntimeError as error:
        assert isinstance(first_error(error), ValueError)
        assert reason_of(error).startswith(f"a plug-in reads a tensor ({__file__}:")


@pytest.mark.gpu
class TestOnCuda:
    @pytest.fixture(autouse=True)
    def on_cuda(self):
        if not torch.cuda.is_available():
            pytest.skip("needs CUDA")

    @pytest.mark.parametrize("name", ["catanet", "atd", "atdu"])
    def test_same_results(self, name):
        spec = {
            "catanet": {"type": "CATANet-XS", "upscale": 4},
            "atd": {"type": "ATD-light", "upscale": 2},
            "atdu": {"type": "ATDUNet", **atdu_arch.TINY},
        }[name]
        with torch.inference_mode(False):
            net = build_network(spec)
            with torch.no_grad():
                net.train()(torch.rand(1, spec.get("in_chans", 3), 32, 32))
            net = net.cuda().eval()
        run = net.prepared(torch.float32) if hasattr(net, "prepared") else net
        graphed = GraphedForward(run, torch.device("cuda"))
        for size in ((64, 64), (48, 80)):
            for _ in range(4):
                x = torch.rand(1, spec.get("in_chans", 3), *size, device="cuda")
                assert torch.equal(graphed(x), run(x))
        assert graphed._backend is not None
        assert len(graphed._graphs) == 2

    def test_a_function_that_reads_a_tensor_runs_as_ever(self, caplog):
        caplog.set_level(logging.INFO, logger="basicsr")
        graphed = GraphedForward(lambda x: x * x.max().item(), torch.device("cuda"))
        for _ in range(3):
            x = torch.rand(4, device="cuda")
            assert torch.equal(graphed(x), x * x.max().item())
        (message,) = caplog.messages
        assert __file__ in message and "makes the CPU wait for the GPU" in message

    def test_a_recording_that_fails_leaves_random_numbers_in_order(self):
        def function(x):
            if torch.cuda.is_current_stream_capturing():
                torch.cuda.synchronize()
            return x + torch.rand_like(x)

        graphed = GraphedForward(function, torch.device("cuda"))
        x = torch.zeros(1000, device="cuda")
        outputs = [graphed(x) for _ in range(3)]
        assert graphed._backend is None
        assert all(0.4 < output.mean() < 0.6 for output in outputs)
        assert torch.cuda.current_stream() == torch.cuda.default_stream()

    def test_weights_cast_by_autocast_live_as_long_as_the_graph(self):
        with torch.inference_mode(False):
            net = torch.nn.Conv2d(3, 8, 3).cuda()

        def function(x):
            with torch.autocast("cuda", torch.bfloat16):
                return net(x) + net(x)

        graphed = GraphedForward(function, torch.device("cuda"))
        for _ in range(5):
            x = torch.rand(1, 3, 32, 32, device="cuda")
            torch.full((1 << 22,), float("nan"), device="cuda")
            assert torch.equal(graphed(x), function(x))
