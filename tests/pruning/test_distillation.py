"""Distillation: matched groups, schedules of the weights, crops of the ground truth, the teacher."""

import copy

import pytest
import torch
import torch.nn.functional as F
from models.prunable_nets import TINY, ResidualCNN, catanet, with_state
from torch import nn

from basicsr.archs import build_network
from basicsr.config.pruning import (
    AffinityOptions,
    DistillOptions,
    FeatureOptions,
    SpatialAffinityOptions,
    ZoomOptions,
)
from basicsr.errors import CheckpointError
from basicsr.losses.fakd_loss import SpatialAffinityLoss
from basicsr.pruning.distillation import Distillation, Transform
from basicsr.pruning.matching import matched_groups, tapped_pairs
from basicsr.pruning.teacher import check_teacher, group_channels, load_teacher

CPU = torch.device("cpu")
PIXELS_ALONE = {"sa": SpatialAffinityOptions(weight=0.0)}


@pytest.fixture(autouse=True)
def one_thread(seed):
    torch.set_num_threads(1)  # faster for tensors this small


@pytest.fixture
def cnn():
    return with_state(ResidualCNN()).requires_grad_(False)


@pytest.fixture
def distillation(cnn):
    def distillation(total_iter=100, constant=False, pairs=((0, 1), (1, 3)), channels=None, **kd):
        return Distillation(DistillOptions(**kd), cnn, pairs, total_iter, channels, constant)

    return distillation


@pytest.mark.parametrize(
    ("kept", "number", "absorb", "uniform"),
    [
        ([0, 4, 7], 8, [3, 6, 7], [2, 4, 7]),
        ([0, 2, 5, 7], 8, [1, 4, 6, 7], [1, 3, 5, 7]),
        ([1, 2], 6, [1, 5], [2, 5]),
        ([3], 6, [5], [5]),
        ([0, 1, 2, 3], 4, [0, 1, 2, 3], [0, 1, 2, 3]),
    ],
)
def test_matched_groups(kept, number, absorb, uniform):
    assert matched_groups(kept, number, "absorb") == absorb
    assert matched_groups(kept, number, "origin") == kept
    assert matched_groups(kept, number, "uniform") == uniform


def test_absorbing_gives_each_kept_group_the_inputs_it_was_trained_on():
    """The target of a student's group is the output of the teacher's last group before the next kept one."""
    kept = [1, 3, 4, 9]
    matched = matched_groups(kept, 12, "absorb")
    assert [group + 1 for group in matched[:-1]] == kept[1:]
    assert matched[-1] == 11


def test_tapped_pairs():
    assert tapped_pairs("all", [0, 4, 7], 8, "absorb") == [(0, 3), (1, 6), (2, 7)]
    assert tapped_pairs("last", [0, 4, 7], 8, "origin") == [(2, 7)]
    assert tapped_pairs([2, 0], [0, 4, 7], 8, "absorb") == [(2, 7), (0, 3)]
    with pytest.raises(ValueError, match=r"kd.taps: must be groups of the student, 0 to 2, got \[3, -1\]"):
        tapped_pairs([1, 3, -1], [0, 4, 7], 8, "absorb")


class TestSchedules:
    def test_alpha_ends_after_its_share_of_the_run(self, distillation):
        kd = distillation(alpha=0.3, alpha_off_at=0.8)
        assert [kd.alpha(it) for it in (1, 80, 81, 100)] == [0.3, 0.3, 0.0, 0.0]

    def test_the_weight_of_features_falls_to_0(self, distillation):
        kd = distillation(feature_off_at=0.5)
        assert [kd.feature_weight(it) for it in (0, 10, 25, 50, 51, 100)] == pytest.approx([1, 0.8, 0.5, 0, 0, 0])
        assert distillation(feature_off_at=0.0).feature_weight(1) == 0
        assert distillation(feature_decay="none").feature_weight(100) == 1

    def test_a_search_has_none(self, distillation):
        kd = distillation(constant=True, alpha=0.3, alpha_off_at=0.0, feature_off_at=0.1)
        assert (kd.alpha(100), kd.feature_weight(100)) == (0.3, 1.0)


class TestLosses:
    def test_are_those_of_the_formula(self, distillation, cnn):
        kd = distillation(alpha=0.25, sa=SpatialAffinityOptions(weight=0.5), feature_off_at=0.8)
        lq, output, gt = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
        mine = {0: torch.randn(2, 8, 8, 8), 1: torch.randn(2, 8, 8, 8)}
        assert kd.student_taps == [0, 1]
        targets = kd.teacher_targets(lq, 40)
        target, theirs = cnn(lq, taps=[1, 3])
        assert torch.equal(targets[0], target)
        assert theirs.keys() == targets[1].keys()
        found = kd.losses(output, mine, targets, {"l_pix": F.l1_loss(output, gt)}, 40)
        sa = sum(SpatialAffinityLoss()([mine[i]], [theirs[j]]) for i, j in ((0, 1), (1, 3)))
        expected = {
            "l_pix": 0.75 * F.l1_loss(output, gt),
            "l_ts": 0.25 * F.l1_loss(output, target),
            "l_sa": 0.5 * 0.5 * sa,  # half of the 80 iterations are over
        }
        torch.testing.assert_close(found, expected)

    def test_weights_on_the_device_give_the_same(self, distillation, cnn):
        kd = distillation(feature_off_at=0.5, sa=SpatialAffinityOptions(weight=0.5))
        lq = torch.rand(2, 3, 12, 12)
        targets = kd.teacher_targets(lq, 1)
        output, mine = cnn(lq, taps=kd.student_taps)
        for it in (1, 10, 40, 51):
            kd._weight_on_device = None
            expected = kd.losses(output, mine, targets, {}, it)
            kd.put_weight_on_device(lq.device, it)
            weight = kd._weight_on_device
            kd.put_weight_on_device(lq.device, it)
            assert kd._weight_on_device is weight  # a graph has recorded its address
            torch.testing.assert_close(kd.losses(output, mine, targets, {}, it), expected)
            assert ("l_sa" in expected) is (it < 50)

    def test_end_with_their_schedules(self, distillation):
        kd = distillation(alpha_off_at=0.5, feature_off_at=0.5)
        output = torch.rand(2, 3, 16, 16)
        targets = kd.teacher_targets(torch.rand(2, 3, 8, 8), 51)
        assert targets == (None, {})
        assert kd.losses(output, {}, targets, {"l_pix": output.mean()}, 51) == {"l_pix": output.mean()}

    def test_the_teacher_computes_features_only_while_they_have_a_weight(self, distillation):
        kd = distillation(alpha_off_at=1.0, feature_off_at=0.5, sa=SpatialAffinityOptions(weight=0.04))
        lq = torch.rand(2, 3, 8, 8)
        assert kd.teacher_targets(lq, 49)[1].keys() == {1, 3}
        assert kd.teacher_targets(lq, 50)[1] == {}
        assert kd.teacher_targets(lq, 50)[0].shape == (2, 3, 16, 16)

    def test_the_teacher_gets_zoomed_inputs_to_the_end(self, distillation):
        kd = distillation(alpha_off_at=0.5, feature_off_at=0.5, zoom=ZoomOptions(weight=1.0))
        assert kd.teacher_targets(torch.rand(2, 3, 8, 8), 100)[0] is not None

    def test_without_feature_terms_nothing_is_tapped(self, distillation):
        kd = distillation(**PIXELS_ALONE)
        assert kd.student_taps == [] and len(kd.features) == 0
        assert kd.teacher_targets(torch.rand(2, 3, 8, 8), 1)[1] == {}

    def test_all_terms_have_their_options(self, distillation):
        kd = distillation(
            channels=(8, 8),
            sa=SpatialAffinityOptions(weight=0.1, mode="gram", pool=2),
            ca=AffinityOptions(weight=0.2),
            ia=AffinityOptions(weight=0.3),
            feat=FeatureOptions(weight=0.4, sigma=1.5, adapter=True),
        )
        assert {name: term.loss_weight for name, term in kd.features.items()} == {
            "sa": 0.1, "ca": 0.2, "ia": 0.3, "feat": 0.4,
        }  # fmt: skip
        assert (kd.features["sa"].mode, kd.features["sa"].pool) == ("gram", 2)
        assert kd.features["feat"].sigma == 1.5
        assert kd.features["feat"].adapter.weight.shape == (8, 8, 1, 1)
        assert [name for name, _ in kd.named_parameters()] == [
            "features.feat.adapter.weight", "features.feat.adapter.bias",
        ]  # fmt: skip


class TestTheTeacherIsNotTrained:
    def test_modes_of_the_distillation_leave_it_alone(self, distillation, cnn):
        kd = distillation()
        kd.train()
        assert not cnn.training
        assert list(kd.parameters()) == []
        kd.teacher_targets(torch.rand(2, 3, 8, 8), 1)

    def test_one_in_training_mode_is_rejected(self, distillation, cnn):
        kd = distillation()
        cnn.train()
        before = copy.deepcopy(cnn.state_dict())
        with pytest.raises(RuntimeError, match="the teacher is in training mode, which moves its state"):
            kd.teacher_targets(torch.rand(2, 3, 8, 8), 1)
        torch.testing.assert_close(cnn.state_dict(), before, rtol=0, atol=0)


class TestZoom:
    def test_crops_are_windows_of_the_ground_truth(self, distillation):
        kd = distillation(zoom=ZoomOptions(weight=1.0, crops=2))
        gt = torch.arange(2 * 3 * 9 * 11.0).view(2, 3, 9, 11)
        places = set()
        for _ in range(300):
            crops = kd.zoomed_inputs(torch.zeros(2, 3, 4, 5), gt)
            assert crops.shape == (4, 3, 4, 5)
            for k in range(2):
                top, left = divmod(int(crops[2 * k, 0, 0, 0]), 11)
                places.add((top, left))
                assert torch.equal(crops[2 * k : 2 * k + 2], gt[:, :, top : top + 4, left : left + 5])
        assert places == {(top, left) for top in range(6) for left in range(7)}

    def test_weight_0_is_off(self, distillation):
        assert distillation().zoomed_inputs(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 8, 8)) is None

    def test_every_transform_is_its_own_inverse(self):
        images = torch.rand(2, 3, 6, 6, dtype=torch.float64)
        changes = {change.kind: change for change in (Transform(0.7) for _ in range(60))}
        assert changes.keys() == {None, 0, 1, 2}
        for kind, change in changes.items():
            torch.testing.assert_close(change(change(images)), images, rtol=0, atol=1e-15)
            assert torch.equal(change(images), images) == (kind is None)
        assert torch.equal(changes[2](images[..., :4]), images[..., :4].transpose(2, 3))

    def test_probabilities_of_transforms(self):
        assert {Transform(0.0).kind for _ in range(50)} == {None}
        assert {Transform(1.0).kind for _ in range(50)} == {0, 1, 2}

    def test_images_that_are_not_square_keep_their_sides(self):
        images = torch.rand(2, 3, 6, 4)
        changed = [Transform(1.0, square=False)(images) for _ in range(50)]
        assert all(image.shape == images.shape for image in changed)
        assert len({float(image.sum()) for image in changed}) == 2


class TestLoading:
    def test_a_teacher_is_frozen_and_in_evaluation(self, tmp_path):
        net = catanet()
        torch.save({"params": net.state_dict()}, tmp_path / "t.pth")
        teacher = load_teacher(TINY, str(tmp_path / "t.pth"), "params", CPU)
        assert not teacher.training
        assert not any(p.requires_grad for p in teacher.parameters())
        x = torch.rand(1, 3, 16, 16)
        assert torch.equal(teacher(x), net(x))

    def test_one_whose_state_was_never_set_is_rejected(self, tmp_path):
        state = catanet().state_dict()
        state["blocks.2.0.initted"] = torch.tensor(False)
        torch.save({"params": state}, tmp_path / "t.pth")
        with pytest.raises(
            ValueError,
            match=r"path.pretrain_network_t: .*t.pth was never trained: blocks.2.0.initted",
        ):
            load_teacher(TINY, str(tmp_path / "t.pth"), "params", CPU)

    def test_other_weights_are_rejected(self, tmp_path):
        torch.save({"params": build_network({**TINY, "dim": 20}).state_dict()}, tmp_path / "t.pth")
        with pytest.raises(
            CheckpointError, match=r"does not fit CATANet: .*first_conv.weight is \(20, 3, 3, 3\) in the file"
        ):
            load_teacher(TINY, str(tmp_path / "t.pth"), "params", CPU)
        with pytest.raises(CheckpointError, match="no such file"):
            load_teacher(TINY, str(tmp_path / "none.pth"), "params", CPU)


class TestChecks:
    def test_scales_must_be_equal(self):
        with pytest.raises(ValueError, match=r"network_t.upscale: is 4, but network_g has 2; teacher and student must"):
            check_teacher(ResidualCNN(), ResidualCNN(upscale=4), False)
        check_teacher(ResidualCNN(), ResidualCNN(hidden=(2,) * 9), True)

    def test_features_need_groups(self):
        teacher = nn.Conv2d(3, 3, 1)
        teacher.upscale = 2
        with pytest.raises(
            ValueError, match="network_t: Conv2d gives no features of groups; set the weights in kd to 0"
        ):
            check_teacher(ResidualCNN(), teacher, True)
        check_teacher(ResidualCNN(), teacher, False)

    @pytest.mark.parametrize("training", [False, True])
    def test_group_channels_change_nothing(self, training):
        net = catanet().train(training)
        before = copy.deepcopy(net.state_dict())
        assert group_channels(net) == (16, 32, 32)
        assert net.training == training
        torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
