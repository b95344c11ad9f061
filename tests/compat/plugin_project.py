"""A project as people build them on BasicSR 1.4, to be written outside the package: one plug-in of each kind."""

import textwrap

SCAN = """
import importlib
from os import path as osp

from basicsr.utils import scandir

folder = osp.dirname(osp.abspath(__file__))
names = [osp.splitext(osp.basename(v))[0] for v in scandir(folder) if v.endswith('_{kind}.py')]
_modules = [importlib.import_module(f'mini.{package}.{{name}}') for name in names]
"""

ARCH = """
import torch
from torch import nn

from basicsr.archs.arch_util import ResidualBlockNoBN, Upsample, default_init_weights, make_layer, to_2tuple
from basicsr.utils.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class MiniNet(nn.Module):

    def __init__(self, num_in_ch=3, num_feat=8, num_block=2, upscale=2, window_size=4, drop_path_rate=0.1):
        super().__init__()
        self.window_size = to_2tuple(window_size)
        self.rates = [x.item() for x in torch.linspace(0, drop_path_rate, num_block)]
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, 1, 1)
        self.body = make_layer(ResidualBlockNoBN, num_block, num_feat=num_feat)
        self.upsample = Upsample(upscale, num_feat)
        self.conv_last = nn.Conv2d(num_feat, num_in_ch, 3, 1, 1)
        self.register_buffer('steps', torch.zeros(1))
        default_init_weights([self.conv_last], 0.1)

    def forward(self, x):
        assert x.shape[2] % self.window_size[0] == 0 and x.shape[3] % self.window_size[1] == 0
        if self.training:
            self.steps += 1
        base = nn.functional.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)
        x = self.conv_first(x)
        return base + self.conv_last(self.upsample(x + self.body(x)))
"""

DATASET = """
import os.path as osp

from torch.utils import data as data

from basicsr.data.data_util import paired_paths_from_folder
from basicsr.data.degradations import add_jpg_compression, random_add_gaussian_noise
from basicsr.data.transforms import augment, paired_random_crop
from basicsr.utils import FileClient, imfrombytes, img2tensor
from basicsr.utils.matlab_functions import imresize
from basicsr.utils.registry import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class MiniDataset(data.Dataset):

    def __init__(self, opt):
        super().__init__()
        self.opt = opt
        self.file_client = None
        self.io_backend_opt = opt['io_backend']
        self.gt_folder = opt['dataroot_gt']
        folders = [self.gt_folder, self.gt_folder]
        self.paths = [p['gt_path'] for p in paired_paths_from_folder(folders, ['lq', 'gt'], '{}')]

    def __getitem__(self, index):
        if self.file_client is None:
            self.file_client = FileClient(self.io_backend_opt.pop('type'), **self.io_backend_opt)
        scale = self.opt['scale']
        gt_path = self.paths[index]
        img_gt = imfrombytes(self.file_client.get(gt_path, 'gt'), float32=True)
        h, w = img_gt.shape[:2]
        img_gt = img_gt[:h - h % scale, :w - w % scale]
        img_lq = imresize(img_gt, 1 / scale)
        if self.opt['phase'] == 'train':
            img_lq = random_add_gaussian_noise(img_lq, sigma_range=self.opt['noise_range'])
            img_lq = add_jpg_compression(img_lq, 90)
            img_gt, img_lq = paired_random_crop(img_gt, img_lq, self.opt['gt_size'], scale, gt_path)
            img_gt, img_lq = augment([img_gt, img_lq], self.opt['use_hflip'], self.opt['use_rot'])
        img_gt, img_lq = img2tensor([img_gt, img_lq], bgr2rgb=True, float32=True)
        return {'lq': img_lq, 'gt': img_gt, 'lq_path': gt_path, 'gt_path': gt_path}

    def __len__(self):
        return len(self.paths)
"""

LOSS = """
import torch
from torch import nn

from basicsr.losses.loss_util import weighted_loss
from basicsr.utils.registry import LOSS_REGISTRY


@weighted_loss
def mini_loss(pred, target, eps=1e-6):
    return torch.sqrt((pred - target)**2 + eps)


@LOSS_REGISTRY.register()
class MiniLoss(nn.Module):

    def __init__(self, loss_weight=1.0, reduction='mean'):
        super().__init__()
        self.loss_weight = loss_weight
        self.reduction = reduction

    def forward(self, pred, target, weight=None, **kwargs):
        return self.loss_weight * mini_loss(pred, target, weight, reduction=self.reduction)
"""

METRIC = """
import numpy as np

from basicsr.metrics.metric_util import reorder_image, to_y_channel
from basicsr.utils.registry import METRIC_REGISTRY


@METRIC_REGISTRY.register()
def calculate_mini(img, img2, crop_border, input_order='HWC', test_y_channel=False, **kwargs):
    assert img.dtype == np.uint8
    img, img2 = reorder_image(img, input_order), reorder_image(img2, input_order)
    if test_y_channel:
        img, img2 = to_y_channel(img), to_y_channel(img2)
    img, img2 = (x[crop_border:-crop_border, crop_border:-crop_border, ...].astype(np.float64) for x in (img, img2))
    return 20. * np.log10(255. / np.sqrt(np.mean((img - img2)**2)))
"""

MODEL = """
import os.path as osp
from collections import OrderedDict

import torch
from torch.nn import functional as F
from tqdm import tqdm

from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.metrics import calculate_metric
from basicsr.models.sr_model import SRModel
from basicsr.utils import USMSharp, get_root_logger, imwrite, tensor2img
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class MiniModel(SRModel):
    '''Overrides everything, as such projects do.'''

    def __init__(self, opt):
        super().__init__(opt)
        self.usm_sharpener = USMSharp(radius=5).to(self.device)
        self.queue_size = opt.get('queue_size', 180)
        get_root_logger().info(f'queue {self.queue_size} of {self.opt["name"]}')

    def init_training_settings(self):
        self.net_g.train()
        train_opt = self.opt['train']
        self.ema_decay = train_opt.get('ema_decay', 0)
        if self.ema_decay > 0:
            self.net_g_ema = build_network(self.opt['network_g']).to(self.device)
            self.model_ema(0)
            self.net_g_ema.eval()
        self.cri_pix = build_loss(train_opt['pixel_opt']).to(self.device)
        self.setup_optimizers()
        self.setup_schedulers()

    def setup_optimizers(self):
        train_opt = self.opt['train']
        optim_type = train_opt['optim_g'].pop('type')
        self.optimizer_g = self.get_optimizer(optim_type, self.net_g.parameters(), **train_opt['optim_g'])
        self.optimizers.append(self.optimizer_g)

    @torch.no_grad()
    def feed_data(self, data):
        self.lq = data['lq'].to(self.device)
        if 'gt' in data:
            self.gt = data['gt'].to(self.device)
            if self.is_train and self.opt['l1_gt_usm']:
                self.gt = self.usm_sharpener(self.gt)

    def optimize_parameters(self, current_iter):
        self.optimizer_g.zero_grad()
        self.output = self.net_g(self.lq)
        loss_dict = OrderedDict()
        l_pix = self.cri_pix(self.output, self.gt)
        loss_dict['l_pix'] = l_pix
        l_pix.backward()
        self.optimizer_g.step()
        self.log_dict = self.reduce_loss_dict(loss_dict)
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    def pre_process(self):
        window_size = self.opt['network_g']['window_size']
        self.scale = self.opt.get('scale', 1)
        _, _, h, w = self.lq.size()
        self.mod_pad_h, self.mod_pad_w = -h % window_size, -w % window_size
        self.img = F.pad(self.lq, (0, self.mod_pad_w, 0, self.mod_pad_h), 'reflect')

    def process(self):
        if hasattr(self, 'net_g_ema'):
            self.net_g_ema.eval()
            with torch.no_grad():
                self.output = self.net_g_ema(self.img)
        else:
            self.net_g.eval()
            with torch.no_grad():
                self.output = self.net_g(self.img)
            self.net_g.train()

    def post_process(self):
        _, _, h, w = self.output.size()
        self.output = self.output[:, :, 0:h - self.mod_pad_h * self.scale, 0:w - self.mod_pad_w * self.scale]

    def dist_validation(self, dataloader, current_iter, tb_logger, save_img):
        if self.opt['rank'] == 0:
            self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        was_training, self.is_train = self.is_train, False  # validation has no sharpened ground truth
        dataset_name = dataloader.dataset.opt['name']
        with_metrics = self.opt['val'].get('metrics') is not None
        use_pbar = self.opt['val'].get('pbar', False)
        if with_metrics:
            if not hasattr(self, 'metric_results'):
                self.metric_results = {metric: 0 for metric in self.opt['val']['metrics'].keys()}
            self._initialize_best_metric_results(dataset_name)
        if with_metrics:
            self.metric_results = {metric: 0 for metric in self.metric_results}
            self.metric_results = self.metric_results or {m: 0 for m in self.opt['val']['metrics'].keys()}
        metric_data = dict()
        if use_pbar:
            pbar = tqdm(total=len(dataloader), unit='image')
        for idx, val_data in enumerate(dataloader):
            img_name = osp.splitext(osp.basename(val_data['lq_path'][0]))[0]
            self.feed_data(val_data)
            self.pre_process()
            if 'tile' in self.opt:
                self.tile_process()
            else:
                self.process()
            self.post_process()
            visuals = self.get_current_visuals()
            sr_img = tensor2img([visuals['result']])
            metric_data['img'] = sr_img
            if 'gt' in visuals:
                metric_data['img2'] = tensor2img([visuals['gt']])
                del self.gt
            del self.lq
            del self.output
            torch.cuda.empty_cache()
            if save_img:
                if self.opt['is_train']:
                    path = osp.join(self.opt['path']['visualization'], img_name, f'{img_name}_{current_iter}.png')
                elif self.opt['val']['suffix']:
                    path = osp.join(self.opt['path']['visualization'], dataset_name,
                                    f'{img_name}_{self.opt["val"]["suffix"]}.png')
                else:
                    path = osp.join(self.opt['path']['visualization'], dataset_name,
                                    f'{img_name}_{self.opt["name"]}.png')
                imwrite(sr_img, path)
            if with_metrics:
                for name, opt_ in self.opt['val']['metrics'].items():
                    self.metric_results[name] += calculate_metric(metric_data, opt_)
            if use_pbar:
                pbar.update(1)
                pbar.set_description(f'Test {img_name}')
        if use_pbar:
            pbar.close()
        if with_metrics:
            for metric in self.metric_results.keys():
                self.metric_results[metric] /= (idx + 1)
                self._update_best_metric_result(dataset_name, metric, self.metric_results[metric], current_iter)
            self._log_validation_metric_values(current_iter, dataset_name, tb_logger)
        self.is_train = was_training

    def save(self, epoch, current_iter):
        if hasattr(self, 'net_g_ema'):
            self.save_network([self.net_g, self.net_g_ema], 'net_g', current_iter, param_key=['params', 'params_ema'])
        else:
            self.save_network(self.net_g, 'net_g', current_iter)
        self.save_training_state(epoch, current_iter)


@MODEL_REGISTRY.register()
class PaddingModel(SRModel):
    '''Overrides nothing but what is done before and after the network.'''

    def pre_process(self):
        window_size = self.opt['network_g']['window_size']
        h, w = self.lq.shape[2:]
        self.pads = -h % window_size, -w % window_size
        self.img = F.pad(self.lq, (0, self.pads[1], 0, self.pads[0]), 'reflect')

    def post_process(self):
        h, w = self.output.shape[2:]
        scale = self.opt['scale']
        self.output = self.output[:, :, :h - self.pads[0] * scale, :w - self.pads[1] * scale]
"""

RUN = """
import os.path as osp

import mini.archs
import mini.data
import mini.losses
import mini.metrics
import mini.models
from basicsr.{command} import {command}_pipeline

if __name__ == '__main__':
    root_path = osp.abspath(osp.join(__file__, osp.pardir, osp.pardir))
    {command}_pipeline(root_path)
"""

TRAIN_YML = """
# general settings
name: Mini_x2
model_type: {model}
scale: 2
num_gpu: 0  # auto: can infer from your visible devices automatically. official: 4 GPUs
manual_seed: 0

# USM the ground-truth
l1_gt_usm: True
queue_size: 32
resize_prob: [0.2, 0.7, 0.1]

datasets:
  train:
    name: Photos
    type: MiniDataset
    dataroot_gt: {photos}
    io_backend:
      type: disk
    gt_size: 32
    use_hflip: true
    use_rot: true
    noise_range: [1, 5]
    # data loader
    use_shuffle: true
    num_worker_per_gpu: 1
    batch_size_per_gpu: 2
    dataset_enlarge_ratio: 1
    prefetch_mode: ~
  val:
    name: PhotosVal
    type: MiniDataset
    dataroot_gt: {photos}
    io_backend:
      type: disk

network_g:
  type: MiniNet
  num_feat: 8
  upscale: 2
  window_size: 4

path:
  pretrain_network_g: ~
  pretrain_network_d: ~
  pretrain_network_le: ~
  strict_load_g: true
  strict_load_d: true
  resume_state: ~

train:
  ema_decay: {ema_decay}
  optim_g:
    type: Adam
    lr: !!float 2e-3
    weight_decay: 0
    betas: [0.9, 0.99]
  scheduler:
    type: MultiStepLR
    milestones: [4, 6]
    gamma: 0.5
  total_iter: {total_iter}
  warmup_iter: -1  # no warm up
  pixel_opt:
    type: MiniLoss
    loss_weight: 1.0
    reduction: mean

val:
  val_freq: !!float 4
  save_img: true
  suffix: ~
  metrics:
    psnr:
      type: calculate_psnr
      crop_border: 2
      test_y_channel: true
    mini:
      type: calculate_mini
      crop_border: 2
      test_y_channel: true
      better: higher

logger:
  print_freq: 2
  save_checkpoint_freq: !!float 4
  use_tb_logger: true
  wandb:
    project: ~
    resume_id: ~

# dist training settings
dist_params:
  backend: nccl
  port: 29500
"""

TEST_YML = """
name: Mini_x2_test
model_type: {model}
scale: 2
num_gpu: 0
manual_seed: 0
l1_gt_usm: False

datasets:
  test_1:
    name: PhotosTest
    type: MiniDataset
    dataroot_gt: {photos}
    io_backend:
      type: disk

network_g:
  type: MiniNet
  num_feat: 8
  upscale: 2
  window_size: 4

path:
  pretrain_network_g: {weights}
  param_key_g: params_ema
  strict_load_g: true

val:
  save_img: true
  suffix: ~
  metrics:
    psnr:
      type: calculate_psnr
      crop_border: 2
      test_y_channel: true
    mini:
      type: calculate_mini
      crop_border: 2
      test_y_channel: true
"""


def write_project(root):
    """The package `mini`, its train.py and test.py, below `root`."""
    parts = {
        "archs": ("arch", "mini_arch", ARCH),
        "data": ("dataset", "mini_dataset", DATASET),
        "losses": ("loss", "mini_loss", LOSS),
        "metrics": ("metric", "mini_metric", METRIC),
        "models": ("model", "mini_model", MODEL),
    }
    for package, (kind, module, text) in parts.items():
        folder = root / "mini" / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(SCAN.format(kind=kind, package=package))
        (folder / f"{module}.py").write_text(textwrap.dedent(text))
    (root / "mini" / "__init__.py").write_text("")
    for command in ("train", "test"):
        (root / "mini" / f"{command}.py").write_text(RUN.format(command=command))
    return root
