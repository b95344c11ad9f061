"""Models of BasicSR 1.4's plug-ins, adapted, in this process: their attributes, methods, options and checkpoints."""

import copy
import shutil

import pytest
import torch
import yaml

from basicsr.archs import build_network
from basicsr.compat.models import adapt_model
from basicsr.compat.options import PlainOptions
from basicsr.config.load import load_options, resolve
from basicsr.config.registry import MODEL_REGISTRY
from basicsr.config.schema import Options
from basicsr.engine.checkpoint import load_file
from basicsr.errors import CheckpointError, OptionError
from basicsr.losses import build_loss
from basicsr.models import build_model
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel

TINY = {"type": "CATANet", "upscale": 2, "dim": 8, "block_num": 1, "qk_dim": 6, "mlp_dim": 12, "heads": 2,
        "patch_size": [8], "num_tokens": [4], "group_size": [64], "n_iters": [2]}  # fmt: skip


@pytest.fixture
def options(tmp_path):
    def options(is_train=True, more=(), **train):
        values = {
            "name": "x",
            "scale": 2,
            "num_gpu": 0,
            "network_g": TINY,
            "network_d": TINY,
            "path": {"experiments_root": str(tmp_path / "experiments")},
            "datasets": {k: {"type": "PairedImageDataset", "dataroot_gt": "unused"} for k in ("train", "val")},
            "train": {
                "total_iter": 20,
                "optim_g": {"type": "Adam", "lr": 1e-3},
                "scheduler": {"type": "MultiStepLR", "milestones": [2], "gamma": 0.5},
                "pixel_opt": {"type": "L1Loss"},
                **train,
            },
            "val": {"metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}}},
            **dict(more),
        }
        path = tmp_path / "x.yml"
        path.write_text(yaml.safe_dump(values))
        return resolve(load_options(path, is_train=is_train))

    return options


def batch(seed, size=2):
    generator = torch.Generator().manual_seed(seed)
    lq, gt = (torch.rand(size, 3, side, side, generator=generator) for side in (12, 24))
    return {"lq": lq, "gt": gt, "lq_path": [f"{k}.png" for k in range(size)]}


def steps(model, first, last):
    for it in range(first, last + 1):
        model.update_learning_rate(it)
        model.feed_data(batch(it))
        model.optimize_parameters(it)


class Plain(SRModel):
    """Overrides nothing."""


class Adversarial(SRModel):
    """Two networks with an optimizer each, in the manner of BasicSR's GAN models."""

    def init_training_settings(self):
        train_opt = self.opt["train"]
        self.net_g_ema = build_network(self.opt["network_g"]).to(self.device)
        self.model_ema(0)
        self.net_d = self.model_to_device(build_network(self.opt["network_d"]))
        self.cri_pix = build_loss(train_opt["pixel_opt"]).to(self.device)
        self.cri_perceptual = None
        optim_type = train_opt["optim_g"].pop("type")
        self.optimizer_g = self.get_optimizer(optim_type, self.net_g.parameters(), **train_opt["optim_g"])
        self.optimizer_d = self.get_optimizer(optim_type, self.net_d.parameters(), lr=1e-2)
        self.optimizers += [self.optimizer_g, self.optimizer_d]

    def optimize_parameters(self, current_iter):
        for p in self.net_d.parameters():
            p.requires_grad = False
        self.optimizer_g.zero_grad()
        self.output = self.net_g(self.lq)
        l_g = self.cri_pix(self.output, self.gt) + self.net_d(self.output.mean((2, 3), True)).mean()
        l_g.backward()
        self.optimizer_g.step()
        for p in self.net_d.parameters():
            p.requires_grad = True
        self.optimizer_d.zero_grad()
        l_d = self.net_d(self.output.detach()[..., :12, :12]).mean() - self.net_d(self.lq).mean()
        l_d.backward()
        self.optimizer_d.step()
        self.log_dict = self.reduce_loss_dict({"l_g": l_g, "l_d": l_d})
        self.model_ema(decay=self.ema_decay)

    def save(self, epoch, current_iter):
        self.save_network([self.net_g, self.net_g_ema], "net_g", current_iter, param_key=["params", "params_ema"])
        self.save_network(self.net_d, "net_d", current_iter)
        self.save_training_state(epoch, current_iter)


def test_which_models_are_adapted(options):
    adapted = adapt_model(Plain)
    assert adapt_model(Plain) is adapted
    assert issubclass(adapted, Plain)
    assert (adapted.__name__, adapted.__module__, adapted.__doc__) == ("Plain", __name__, "Overrides nothing.")
    assert adapt_model(build_model) is build_model
    assert MODEL_REGISTRY.get("SRModel") is SRModel
    assert isinstance(Plain(options()).opt, Options)  # as it is, for the contract of this package
    assert isinstance(adapted(options()).opt, PlainOptions)


def test_a_plug_in_that_overrides_nothing_trains_as_the_model_it_derives_from(options):
    opt = options(ema_decay=0.9, accum_iter=2)
    torch.manual_seed(1)
    ours = SRModel(opt)
    torch.manual_seed(1)
    theirs = adapt_model(Plain)(opt)
    for model in (ours, theirs):
        steps(model, 1, 4)
    torch.testing.assert_close(theirs.net_g.state_dict(), ours.net_g.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(theirs.net_g_ema.module.state_dict(), ours.ema.module.state_dict(), rtol=0, atol=0)
    assert theirs.get_current_log() == ours.get_current_log()
    assert theirs.log_dict is theirs.log


class TestAttributes:
    def test_input_and_target_are_those_of_the_batch(self, options):
        model = adapt_model(Plain)(options())
        assert not hasattr(model, "lq") and not hasattr(model, "gt")
        data = batch(1)
        model.feed_data(data)
        assert torch.equal(model.lq, data["lq"]) and torch.equal(model.gt, data["gt"])
        model.gt = model.gt * 0
        model.optimize_parameters(1)
        assert model.get_current_log()["l_pix"] == pytest.approx(model.net_g(model.lq).abs().mean().item(), rel=0.2)
        del model.gt
        assert not hasattr(model, "gt")
        assert "gt" not in model.get_current_visuals()
        with pytest.raises(KeyError, match="gt"):
            model.optimize_parameters(2)

    def test_a_moving_average_is_there_or_not(self, options):
        model = adapt_model(Plain)(options())
        assert not hasattr(model, "net_g_ema")
        model.model_ema(0.9)
        model.net_g_ema = build_network(TINY)
        model.model_ema(0)
        torch.testing.assert_close(model.net_g_ema.state_dict(), model.net_g.state_dict(), rtol=0, atol=0)
        assert adapt_model(Plain)(options(ema_decay=0.9)).ema_decay == 0.9

    def test_losses_have_the_names_that_plug_ins_use(self, options):
        model = adapt_model(Plain)(options())
        assert model.cri_pix is model.losses["pixel_opt"]
        assert model.cri_perceptual is None
        model.cri_pix = build_loss({"type": "L1Loss", "loss_weight": 3.0})
        model.cri_perceptual = None
        assert model.cri_perceptual is None
        before = SRModel(options())
        before.net_g.load_state_dict(model.net_g.state_dict())
        for one in (model, before):
            one.feed_data(batch(1))
            one.optimize_parameters(1)
        assert model.get_current_log()["l_pix"] == pytest.approx(3 * before.get_current_log()["l_pix"])

    def test_options_may_be_written_to(self, options):
        opt = options()
        model = adapt_model(Plain)(opt)
        assert model.opt["train"]["optim_g"].pop("type") == "Adam"
        assert opt.train.optim_g["type"] == model.opt.train.optim_g["type"] == "Adam"


class TestTesting:
    def test_outputs_of_own_methods_are_scored(self, options):
        class Inverting(SRModel):
            def pre_process(self):
                self.img = 1 - self.lq

            def post_process(self):
                self.output = 1 - self.output

        model = adapt_model(Inverting)(options())
        data = batch(1, size=1)
        scores = model.validation([data], 1, False)
        with model.predictor() as predict:
            expected = 1 - predict(1 - data["lq"])
        assert torch.equal(model.output, expected)
        data["lq"] = expected
        assert scores.mean() == model.score(lambda sr: sr, [data], 1, False).mean()

    def test_an_own_validation_goes_on_from_ours(self, options):
        class Counting(SRModel):
            def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
                super().nondist_validation(dataloader, current_iter, tb_logger, save_img)
                self.seen = (current_iter, dict(self.metric_results))

        model = adapt_model(Counting)(options())
        scores = model.validation([batch(1, size=1)], 7, False)
        assert model.seen == (7, scores.mean())
        assert list(scores.per_image) == ["0"]
        model.validation([batch(1, size=1)], None, False)
        assert model.seen[0] == "x"  # a test run passes its name

    def test_a_validation_with_our_arguments_is_called(self, options):
        class Own(SRModel):
            def validation(self, loader, current_iter=None, save_img=False):
                return "own"

            def pre_process(self):
                raise AssertionError

        assert adapt_model(Own)(options()).validation([], 1, False) == "own"


class TestTwoNetworks:
    def test_rates_of_all_optimizers_follow_the_schedule(self, options):
        model = adapt_model(Adversarial)(options(ema_decay=0.9))
        rates = []
        for it in range(1, 5):
            model.update_learning_rate(it)
            rates.append(model.get_current_learning_rate())
        assert rates == [pytest.approx(rate) for rate in ([1e-3, 1e-2], [1e-3, 1e-2], [5e-4, 5e-3], [5e-4, 5e-3])]

    def test_a_resumed_run_ends_like_one_that_never_stopped(self, options, tmp_path):
        torch.manual_seed(1)
        straight = adapt_model(Adversarial)(options(ema_decay=0.9))
        torch.manual_seed(1)
        stopped = adapt_model(Adversarial)(options(ema_decay=0.9))
        steps(straight, 1, 6)
        steps(stopped, 1, 3)
        stopped.save(0, 3, best={"a": 1})
        stopped.save(-1, -1)

        folder = tmp_path / "experiments" / "x"
        assert sorted(path.name for path in (folder / "training_states").iterdir()) == ["3.state"]
        assert (folder / "models" / "net_d_latest.pth").exists()
        state, weights = load_file(folder / "training_states" / "3.state"), load_file(folder / "models" / "net_g_3.pth")
        assert state["best"] == {"a": 1}  # which the run gives, and the plug-in's save does not take
        assert list(weights) == ["params", "params_ema", "network_g", "meta"]
        resumed = adapt_model(Adversarial)(options(ema_decay=0.9))
        resumed.resume_training(state, weights, "net_g_3.pth")
        steps(resumed, 4, 6)
        for name in ("net_g", "net_d", "net_g_ema"):
            ends = (getattr(model, name).state_dict() for model in (resumed, straight))
            torch.testing.assert_close(*ends, rtol=0, atol=0)

    def test_a_loss_that_is_not_finite_ends_the_run(self, options):
        model = adapt_model(Adversarial)(options())
        steps(model, 1, 1)
        model.check_finite(1)
        model.log_dict = {"l_g": torch.tensor(float("nan")), "l_d": 1.0}
        with pytest.raises(FloatingPointError, match=r"iteration 2: the loss is not finite \(l_g=nan, l_d=1\.0\)"):
            model.check_finite(2)

    def test_it_takes_its_steps_without_graphs(self, options):
        assert "has its own optimize_parameters" in adapt_model(Adversarial)(options()).graph_obstacle()


def test_set_up_and_saving_may_be_overridden_in_part(options, tmp_path):
    class Own(SRModel):
        def setup_schedulers(self):
            self.was_set_up = True

        def model_ema(self, decay=0.999):
            self.decay = decay
            super().model_ema(decay)

        def save_training_state(self, epoch, current_iter):
            super().save_training_state(epoch, current_iter)
            self.saved = current_iter

    model = adapt_model(Own)(options(ema_decay=0.5))
    assert model.was_set_up
    steps(model, 1, 1)
    assert model.decay == 0.5
    model.save(0, 1, finished=True)
    assert model.saved == 1
    assert load_file(tmp_path / "experiments/x/training_states/1.state")["finished"] is True


def test_a_model_of_the_base_class_has_what_it_needs(options):
    class Bare(BaseModel):
        def __init__(self, opt):
            super().__init__(opt)
            self.net_g = self.model_to_device(build_network(opt["network_g"]))
            self.print_network(self.net_g)
            self.optimizers.append(self.get_optimizer("SGD", self.net_g.parameters(), lr=0.1))

        def feed_data(self, data):
            self.lq = data["lq"].to(self.device)

        def compute_losses(self, batch):
            assert list(batch) == ["lq"]
            return {"l_one": self.net_g(batch["lq"]).mean()}

    model = adapt_model(Bare)(options())
    steps(model, 1, 2)
    assert set(model.get_current_log()) == {"l_one"}
    assert model.get_bare_model(model.net_g) is model.net_g


def test_a_script_with_plain_options_drives_our_model_by_its_old_methods(options):
    """As `model = build_model(opt)` after `opt, args = parse_options(...)` in a project for BasicSR 1.4."""
    opt = PlainOptions(options(is_train=False))
    model = build_model(copy.deepcopy(opt))
    assert type(model).__name__ == "SRModel" and isinstance(model.opt, dict) and model.opt["scale"] == 2
    model.feed_data(batch(1))
    model.test()
    assert model.get_current_visuals()["result"].shape == (2, 3, 24, 24)
    with model.predictor() as predict:
        torch.testing.assert_close(model.output, predict(batch(1)["lq"]), rtol=0, atol=0)


def test_a_copy_of_plain_options_has_the_typed_ones_too(options):
    opt = PlainOptions(options())
    new = copy.deepcopy(opt)
    new["train"]["optim_g"].pop("type")
    assert (
        new.train.optim_g.type == "Adam"
        and opt["train"]["optim_g"]["type"] == "Adam"
        and new["manual_seed"] is not None
    )


class TestAttributesOfTheOldBaseClass:
    """They exist when the base class of BasicSR has set them, and not before: plug-ins ask with `hasattr`."""

    def test_results_are_made_by_the_plug_in_and_stay(self, options):
        class Lazy(SRModel):
            def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
                self.found = hasattr(self, "metric_results")
                if not self.found:
                    self.metric_results = {"psnr": 0}
                if dataloader:
                    self.metric_results["psnr"] = current_iter

        model = adapt_model(Lazy)(options())
        assert model.validation([1], 3).mean() == {"psnr": 3.0} and not model.found
        assert model.validation([1], 4).mean() == {"psnr": 4.0} and model.found
        assert model.validation([], 5).mean() == {}  # not those of the set before

    def test_what_belongs_to_training_is_missing_in_a_test(self, options):
        model = adapt_model(Plain)(options(is_train=False))
        names = ("cri_pix", "cri_perceptual", "optimizer_g", "metric_results", "best_metric_results", "img", "lq", "gt")
        assert [name for name in names if hasattr(model, name)] == []
        assert model.schedulers == []

    def test_the_optimizer_of_the_base_class(self, options):
        model = adapt_model(Plain)(options())
        assert model.optimizer_g is model.optimizers[0]
        own = torch.optim.SGD(model.net_g.parameters(), 0.1)
        model.optimizer_g = own
        assert model.optimizer_g is own

    def test_numbers_are_losses_too(self, options):
        class Counting(SRModel):
            def optimize_parameters(self, current_iter):
                self.log_dict = self.reduce_loss_dict({"l_a": torch.ones(2), "l_b": 2})
                self.log_dict["l_c"] = 0.5

        model = adapt_model(Counting)(options())
        steps(model, 1, 1)
        model.check_finite(1)
        assert model.get_current_log() == {"l_a": 1.0, "l_b": 2.0, "l_c": 0.5}
        model.log_dict["l_c"] = float("inf")
        with pytest.raises(FloatingPointError, match="l_c=inf"):
            model.check_finite(1)

    def test_an_own_validation_with_the_old_arguments(self, options, caplog):
        class Old(SRModel):
            def validation(self, dataloader, current_iter, tb_logger, save_img=False):
                self.metric_results = {"psnr": 30.0 if tb_logger is None else 0}

        assert adapt_model(Old)(options()).validation([], 1, False).mean() == {"psnr": 30.0}

    def test_a_script_validates_with_the_old_arguments(self, options, monkeypatch, caplog):
        monkeypatch.setattr("basicsr.compat.models.logger.handlers", [])
        monkeypatch.setattr("basicsr.compat.models.logger.propagate", True)
        caplog.set_level("INFO", "basicsr")
        model = adapt_model(Plain)(options())
        written = []
        writer = type("Writer", (), {"add_scalar": lambda self, *values: written.append(values)})()
        for it in (1, 2):
            scores = model.validation([batch(1, size=1)], it, writer, False)
        psnr = scores.mean()["psnr"]
        assert written == [("metrics//psnr", psnr, 1), ("metrics//psnr", psnr, 2)]
        assert f"# psnr: {psnr:.4f}\tBest: {psnr:.4f} @ 2 iter" in caplog.records[-1].message
        model.validation(dataloader=[batch(1, size=1)], current_iter="x", tb_logger=None, save_img=False)
        assert "psnr_float" in caplog.records[-1].message  # a test scores in both protocols


class TestPerceptualLoss:
    SPEC = {"type": "PerceptualLoss", "layer_weights": {"conv1_1": 0.5}, "vgg_type": "vgg11"}  # noqa: RUF012

    @pytest.fixture
    def weights(self, tmp_path):
        path = tmp_path / "vgg.pth"
        torch.save({"features.0.weight": torch.randn(64, 3, 3, 3), "features.0.bias": torch.zeros(64)}, path)
        return str(path)

    @pytest.mark.parametrize(("perceptual", "style"), [(1.0, 0.0), (0.0, 2.0), (1.0, 2.0)])
    def test_a_plug_in_gets_both_parts(self, options, weights, perceptual, style):
        spec = {**self.SPEC, "weights": weights, "perceptual_weight": perceptual, "style_weight": style}
        images = torch.rand(1, 3, 24, 24), torch.rand(1, 3, 24, 24)
        whole = build_loss(spec)(*images)
        model = adapt_model(Plain)(options(perceptual_opt=spec))
        made_here = adapt_model(Plain)(options())
        made_here.cri_perceptual = build_loss(spec).to("cpu")
        made_here.cri_other = build_loss(spec)
        for loss in (model.cri_perceptual, made_here.cri_perceptual, made_here.cri_other):
            parts = loss(*images)
            assert [part is not None for part in parts] == [perceptual > 0, style > 0]
            torch.testing.assert_close(sum(part for part in parts if part is not None), whole)
            assert loss.style_weight == style  # its other attributes
        losses = model.compute_losses(batch(1))  # of this package's own step: the sum
        assert losses["l_percep"].shape == ()

    def test_the_file_of_pytorchs_cache_is_used(self, weights, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        with pytest.raises(CheckpointError) as error:
            build_loss(self.SPEC)
        message, file = str(error.value), tmp_path / "cache/hub/checkpoints/vgg11-8a719046.pth"
        url = "https://download.pytorch.org/models/vgg11-8a719046.pth"
        assert "\n" not in message and f"curl --create-dirs -o {file} {url}" in message and "set weights" in message
        for path in (file, tmp_path / "experiments/pretrained_models/vgg11-8a719046.pth"):
            path.parent.mkdir(parents=True)
            shutil.copy(weights, path)
            build_loss(self.SPEC)
            path.unlink()


class TestPlainDictionaries:
    """`SRModel({...})`, as BasicSR's own tests and scripts make models."""

    OPT = {  # noqa: RUF012
        "model_type": "SRModel",
        "scale": 2,
        "num_gpu": 0,
        "is_train": True,
        "dist": False,
        "network_g": TINY,
        "train": {
            "optim_g": {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.99]},
            "scheduler": {"type": "MultiStepLR", "milestones": [2], "gamma": 0.5},
            "total_iter": 4,
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0},
            "ema_decay": 0.9,
        },
        "val": {"metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": False}}},
        "path": {"pretrain_network_g": None},
        "logger": {"print_freq": 1},
    }

    @pytest.fixture
    def opt(self, tmp_path):
        path = {"experiments_root": str(tmp_path), "models": str(tmp_path), "training_states": str(tmp_path)}
        opt = copy.deepcopy(self.OPT)
        opt["path"] |= {**path, "visualization": str(tmp_path)}
        return opt

    def test_a_model_of_this_package_trains_tests_and_saves(self, opt, tmp_path):
        model = SRModel(opt)
        assert isinstance(model, SRModel) and model.opt["scale"] == 2 and model.opt is not opt
        steps(model, 1, 2)
        assert model.get_current_log()["l_pix"] > 0
        model.test()
        assert model.get_current_visuals()["result"].shape == (2, 3, 24, 24)
        loader = torch.utils.data.DataLoader([{k: v[0] for k, v in batch(1, 1).items()}])
        model.nondist_validation(loader, 1, None, False)
        assert model.metric_results["psnr"] > 0
        model.save(0, 2)
        assert {"net_g_2.pth", "2.state"} <= {path.name for path in tmp_path.iterdir()}

    def test_a_test_needs_a_network_alone(self):
        model = SRModel({"network_g": TINY, "num_gpu": 0, "is_train": False, "path": {}})
        model.feed_data(batch(1))
        model.test()
        assert model.output.shape == (2, 3, 24, 24) and model.opt["scale"] == 2

    def test_a_plug_in_and_a_child_of_the_base_model(self, opt):
        model = Plain(opt)
        assert isinstance(model, Plain) and hasattr(model, "net_g_ema") and model.ema_decay == 0.9

        class Bare(BaseModel):
            def __init__(self, opt):
                super().__init__(opt)
                self.net_g = build_network(opt["network_g"])

        model = Bare(opt)
        model.feed_data(batch(1))
        model.test()
        assert model.output.shape == (2, 3, 24, 24)
        assert list(model.validation([batch(1, size=1)], 1, False).mean()) == ["psnr"]

    def test_wrong_values_are_reported(self):
        with pytest.raises(OptionError, match=r"network_g\.blocks: CATANet has no such argument"):
            SRModel({"network_g": {**TINY, "blocks": 3}})
