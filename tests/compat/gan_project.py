"""A project with adversarial training in the manner of those that build on an installed BasicSR 1.4.

Its package finds its files by scanning folders. A network with shifted windows and a discriminator of its own are named
in the option file; one model derives from `SRGANModel` and degrades its batches on the device, the other from
`BaseModel` and makes everything by itself.
"""

import textwrap

SCAN = """
import importlib
from os import path as osp

from basicsr.utils import scandir

folder = osp.dirname(osp.abspath(__file__))
filenames = [osp.splitext(osp.basename(v))[0] for v in scandir(folder) if v.endswith('_{kind}.py')]
_modules = [importlib.import_module(f'grit.{kind}s.{{file_name}}') for file_name in filenames]
"""

PARTS = {
    "__init__.py": """
        from .archs import *
        from .datas import *
        from .models import *
        """,
    "archs/__init__.py": SCAN.format(kind="arch"),
    "datas/__init__.py": SCAN.format(kind="data"),
    "models/__init__.py": SCAN.format(kind="model"),
    "archs/gritswin_arch.py": """
        import torch
        import torch.nn as nn
        import torch.nn.functional as F

        from basicsr.archs.arch_util import to_2tuple, trunc_normal_
        from basicsr.utils.registry import ARCH_REGISTRY


        class DropPath(nn.Module):

            def __init__(self, drop_prob=0.):
                super(DropPath, self).__init__()
                self.drop_prob = drop_prob

            def forward(self, x):
                if self.drop_prob == 0. or not self.training:
                    return x
                keep = 1 - self.drop_prob
                return x / keep * torch.floor(keep + torch.rand(x.shape[0], 1, 1, dtype=x.dtype, device=x.device))


        class Block(nn.Module):

            def __init__(self, dim, num_heads, window_size, shift_size, drop_path):
                super().__init__()
                self.window_size, self.shift_size = to_2tuple(window_size), to_2tuple(shift_size)
                self.num_heads = num_heads
                wh, ww = self.window_size
                self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * wh - 1) * (2 * ww - 1), num_heads))
                trunc_normal_(self.relative_position_bias_table, std=.02)
                coords = torch.stack(torch.meshgrid(torch.arange(wh), torch.arange(ww), indexing='ij')).flatten(1)
                relative = coords[:, :, None] - coords[:, None, :]
                index = (relative[0] + wh - 1) * (2 * ww - 1) + relative[1] + ww - 1
                self.register_buffer('relative_position_index', index)
                self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
                self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
                self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
                self.drop_path = DropPath(drop_path)

            def forward(self, x, x_size):
                (h, w), (wh, ww), (b, _, c) = x_size, self.window_size, x.shape
                y = self.norm1(x).view(b, h, w, c)
                y = torch.roll(y, shifts=(-self.shift_size[0], -self.shift_size[1]), dims=(1, 2))
                y = y.view(b, h // wh, wh, w // ww, ww, c).transpose(2, 3).reshape(-1, wh * ww, c)
                qkv = self.qkv(y).view(-1, wh * ww, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
                bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
                bias = bias.view(wh * ww, wh * ww, -1).permute(2, 0, 1).unsqueeze(0)
                attn = (qkv[0] @ qkv[1].transpose(-2, -1)) * (c // self.num_heads)**-.5 + bias
                y = self.proj((attn.softmax(-1) @ qkv[2]).transpose(1, 2).reshape(-1, wh * ww, c))
                y = y.view(b, h // wh, w // ww, wh, ww, c).transpose(2, 3).reshape(b, h, w, c)
                y = torch.roll(y, shifts=self.shift_size, dims=(1, 2)).reshape(b, h * w, c)
                x = x + self.drop_path(y)
                return x + self.drop_path(self.mlp(self.norm2(x)))


        @ARCH_REGISTRY.register()
        class GritSwin(nn.Module):

            def __init__(self, img_size=16, in_chans=3, embed_dim=8, depths=(2, 2), num_heads=(2, 2), window_size=4,
                         drop_path_rate=0.1, upscale=2, img_range=1., upsampler='pixelshuffle', **kwargs):
                super(GritSwin, self).__init__()
                self.window_size, self.upscale, self.img_range = window_size, upscale, img_range
                self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, 1, 1)
                dpr = [x.item() for x in torch.linspace(0, drop_path_rate, sum(depths))]  # stochastic depth decay rule
                heads = [n for n, depth in zip(num_heads, depths) for _ in range(depth)]
                self.layers = nn.ModuleList(
                    Block(embed_dim, heads[i], window_size, 0 if i % 2 == 0 else window_size // 2, dpr[i])
                    for i in range(sum(depths)))
                self.conv_last = nn.Conv2d(embed_dim, in_chans * upscale**2, 3, 1, 1)
                self.apply(self._init_weights)

            def _init_weights(self, m):
                if isinstance(m, nn.Linear):
                    trunc_normal_(m.weight, std=.02)
                    nn.init.constant_(m.bias, 0)
                elif isinstance(m, nn.LayerNorm):
                    nn.init.constant_(m.bias, 0)
                    nn.init.constant_(m.weight, 1.0)

            @torch.jit.ignore
            def no_weight_decay_keywords(self):
                return {'relative_position_bias_table'}

            def forward(self, x):
                h, w = x.shape[2:]
                s = self.window_size
                x = F.pad(x, (0, (s - w % s) % s, 0, (s - h % s) % s), 'reflect') * self.img_range
                feat = self.conv_first(x)
                y = feat.flatten(2).transpose(1, 2)
                for layer in self.layers:
                    y = layer(y, x.shape[2:])
                feat = feat + y.transpose(1, 2).view_as(feat)
                out = F.pixel_shuffle(self.conv_last(feat), self.upscale)
                out = out + F.interpolate(x, scale_factor=self.upscale, mode='bilinear', align_corners=False)
                return out[:, :, :h * self.upscale, :w * self.upscale] / self.img_range
        """,
    "archs/gritdisc_arch.py": """
        from torch import nn as nn
        from torch.nn.utils import spectral_norm

        from basicsr.utils.registry import ARCH_REGISTRY


        @ARCH_REGISTRY.register()
        class GritPatchDiscriminator(nn.Module):

            def __init__(self, num_in_ch, num_feat=4, skip_connection=True):
                super(GritPatchDiscriminator, self).__init__()
                self.body = nn.Sequential(
                    nn.Conv2d(num_in_ch, num_feat, 3, 1, 1), nn.LeakyReLU(0.2, True),
                    spectral_norm(nn.Conv2d(num_feat, num_feat, 4, 2, 1, bias=False)), nn.LeakyReLU(0.2, True),
                    nn.Conv2d(num_feat, 1, 3, 1, 1))

            def forward(self, x):
                return self.body(x)
        """,
    "datas/grit_data.py": """
        import cv2
        import math
        import numpy as np
        import random
        import torch
        from torch.utils import data as data
        from torchvision.transforms.functional import normalize

        from basicsr.data.data_util import paths_from_folder
        from basicsr.data.degradations import random_mixed_kernels
        from basicsr.data.transforms import augment
        from basicsr.utils import FileClient, get_root_logger, imfrombytes, img2tensor
        from basicsr.utils.registry import DATASET_REGISTRY


        @DATASET_REGISTRY.register()
        class GritDataset(data.Dataset):

            def __init__(self, opt):
                super(GritDataset, self).__init__()
                self.opt = opt
                self.file_client = None
                self.io_backend_opt = opt['io_backend']
                self.mean = opt['mean']
                self.std = opt['std']
                self.paths = sorted(paths_from_folder(opt['dataroot_gt']))
                get_root_logger().info(f'{len(self.paths)} pictures')

            def __getitem__(self, index):
                if self.file_client is None:
                    self.file_client = FileClient(self.io_backend_opt.pop('type'), **self.io_backend_opt)
                img_bytes = self.file_client.get(self.paths[index], 'gt')
                img_gt = imfrombytes(img_bytes, float32=True)
                if self.opt['phase'] != 'train':
                    img_gt = img_gt[:36, :36]
                    img_lq = cv2.resize(img_gt, (18, 18), interpolation=cv2.INTER_AREA)
                    img_gt, img_lq = img2tensor([img_gt, img_lq], bgr2rgb=True, float32=True)
                    normalize(img_lq, self.mean, self.std, inplace=True)
                    normalize(img_gt, self.mean, self.std, inplace=True)
                    return {'lq': img_lq, 'gt': img_gt, 'lq_path': self.paths[index], 'gt_path': self.paths[index]}
                img_gt = augment(img_gt, self.opt['use_hflip'], self.opt['use_rot'])
                size = self.opt['gt_size']
                top, left = random.randint(0, img_gt.shape[0] - size), random.randint(0, img_gt.shape[1] - size)
                img_gt = img2tensor([img_gt[top:top + size, left:left + size]], bgr2rgb=True, float32=True)[0]
                normalize(img_gt, self.mean, self.std, inplace=True)
                kernel = random_mixed_kernels(
                    self.opt['kernel_list'], self.opt['kernel_prob'], random.choice([3, 5, 7]), self.opt['blur_sigma'],
                    self.opt['blur_sigma'], [-math.pi, math.pi], noise_range=None)
                pad = (7 - kernel.shape[0]) // 2
                kernel = np.pad(kernel, ((pad, pad), (pad, pad)))
                return {'gt': img_gt, 'kernel': torch.FloatTensor(kernel), 'gt_path': self.paths[index]}

            def __len__(self):
                return len(self.paths)
        """,
    "models/gritgan_model.py": """
        import numpy as np
        import torch
        from collections import OrderedDict
        from torch.nn import functional as F

        from basicsr.losses.loss_util import get_refined_artifact_map
        from basicsr.models.srgan_model import SRGANModel
        from basicsr.utils.img_process_util import filter2D
        from basicsr.utils.registry import MODEL_REGISTRY


        @MODEL_REGISTRY.register()
        class GritGANModel(SRGANModel):

            def __init__(self, opt):
                super(GritGANModel, self).__init__(opt)
                self.noise_range = opt['noise_range']

            @torch.no_grad()
            def feed_data(self, data):
                if self.is_train:
                    self.gt = data['gt'].to(self.device)
                    self.kernel = data['kernel'].to(self.device)
                    out = filter2D(self.gt, self.kernel)
                    mode = np.random.choice(['area', 'bilinear', 'bicubic'])
                    size = self.gt.size(2) // self.opt['scale']
                    out = F.interpolate(out, size=(size, size), mode=mode)
                    sigma = np.random.uniform(*self.noise_range) / 255.
                    self.lq = (out + sigma * torch.randn_like(out)).contiguous()
                else:
                    self.lq = data['lq'].to(self.device)
                    if 'gt' in data:
                        self.gt = data['gt'].to(self.device)

            def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
                self.is_train = False  # no degradation here
                super(GritGANModel, self).nondist_validation(dataloader, current_iter, tb_logger, save_img)
                self.is_train = True

            def optimize_parameters(self, current_iter):
                for p in self.net_d.parameters():
                    p.requires_grad = False
                self.optimizer_g.zero_grad()
                self.output = self.net_g(self.lq)
                if self.cri_ldl:
                    self.output_ema = self.net_g_ema(self.lq)
                l_g_total = 0
                loss_dict = OrderedDict()
                if (current_iter % self.net_d_iters == 0 and current_iter > self.net_d_init_iters):
                    if self.cri_pix:
                        l_g_pix = self.cri_pix(self.output, self.gt)
                        l_g_total += l_g_pix
                        loss_dict['l_g_pix'] = l_g_pix
                    if self.cri_ldl:
                        pixel_weight = get_refined_artifact_map(self.gt, self.output, self.output_ema, 7)
                        l_g_ldl = self.cri_ldl(torch.mul(pixel_weight, self.output), torch.mul(pixel_weight, self.gt))
                        l_g_total += l_g_ldl
                        loss_dict['l_g_ldl'] = l_g_ldl
                    if self.cri_perceptual:
                        l_g_percep, l_g_style = self.cri_perceptual(self.output, self.gt)
                        if l_g_percep is not None:
                            l_g_total += l_g_percep
                            loss_dict['l_g_percep'] = l_g_percep
                        if l_g_style is not None:
                            l_g_total += l_g_style
                            loss_dict['l_g_style'] = l_g_style
                    fake_g_pred = self.net_d(self.output)
                    l_g_gan = self.cri_gan(fake_g_pred, True, is_disc=False)
                    l_g_total += l_g_gan
                    loss_dict['l_g_gan'] = l_g_gan
                    l_g_total.backward()
                    self.optimizer_g.step()
                for p in self.net_d.parameters():
                    p.requires_grad = True
                self.optimizer_d.zero_grad()
                real_d_pred = self.net_d(self.gt)
                l_d_real = self.cri_gan(real_d_pred, True, is_disc=True)
                loss_dict['l_d_real'] = l_d_real
                loss_dict['out_d_real'] = torch.mean(real_d_pred.detach())
                l_d_real.backward()
                fake_d_pred = self.net_d(self.output.detach().clone())
                l_d_fake = self.cri_gan(fake_d_pred, False, is_disc=True)
                loss_dict['l_d_fake'] = l_d_fake
                loss_dict['out_d_fake'] = torch.mean(fake_d_pred.detach())
                l_d_fake.backward()
                self.optimizer_d.step()
                if self.ema_decay > 0:
                    self.model_ema(decay=self.ema_decay)
                self.log_dict = self.reduce_loss_dict(loss_dict)
                self.log_dict['sigma_max'] = float(self.noise_range[1])
        """,
    "models/gritbase_model.py": """
        import os.path as osp
        import torch
        from collections import OrderedDict
        from tqdm import tqdm

        from basicsr.archs import build_network
        from basicsr.losses import build_loss
        from basicsr.losses.gan_loss import r1_penalty
        from basicsr.metrics import calculate_metric
        from basicsr.models.base_model import BaseModel
        from basicsr.utils import get_root_logger, imwrite, tensor2img
        from basicsr.utils.registry import MODEL_REGISTRY


        @MODEL_REGISTRY.register()
        class GritBaseModel(BaseModel):

            def __init__(self, opt):
                super(GritBaseModel, self).__init__(opt)
                self.idx = 0
                self.net_g = build_network(opt['network_g'])
                self.net_g = self.model_to_device(self.net_g)
                self.print_network(self.net_g)
                load_path = self.opt['path'].get('pretrain_network_g', None)
                if load_path is not None:
                    param_key = self.opt['path'].get('param_key_g', 'params')
                    self.load_network(self.net_g, load_path, self.opt['path'].get('strict_load_g', True), param_key)
                self.log_size = int(self.opt['datasets']['train']['gt_size']) if self.is_train else 0
                if self.is_train:
                    self.init_training_settings()

            def init_training_settings(self):
                train_opt = self.opt['train']
                self.net_d = build_network(self.opt['network_d'])
                self.net_d = self.model_to_device(self.net_d)
                self.print_network(self.net_d)
                load_path = self.opt['path'].get('pretrain_network_d', None)
                if load_path is not None:
                    self.load_network(self.net_d, load_path, self.opt['path'].get('strict_load_d', True))
                self.net_g_ema = build_network(self.opt['network_g']).to(self.device)
                self.model_ema(0)
                self.net_d.train()
                self.net_g.train()
                self.net_g_ema.eval()
                if train_opt.get('pixel_opt'):
                    self.cri_pix = build_loss(train_opt['pixel_opt']).to(self.device)
                else:
                    self.cri_pix = None
                self.cri_perceptual = build_loss(train_opt['perceptual_opt']).to(self.device)
                self.cri_gan = build_loss(train_opt['gan_opt']).to(self.device)
                self.r1_reg_weight = train_opt['r1_reg_weight']
                self.net_d_iters = train_opt.get('net_d_iters', 1)
                self.net_d_init_iters = train_opt.get('net_d_init_iters', 0)
                self.net_d_reg_every = train_opt['net_d_reg_every']
                self.setup_optimizers()
                self.setup_schedulers()

            def setup_optimizers(self):
                train_opt = self.opt['train']
                optim_params = []
                for k, v in self.net_g.named_parameters():
                    if v.requires_grad:
                        optim_params.append(v)
                    else:
                        get_root_logger().warning(f'Params {k} will not be optimized.')
                optim_type = train_opt['optim_g'].pop('type')
                self.optimizer_g = self.get_optimizer(optim_type, optim_params, **train_opt['optim_g'])
                self.optimizers.append(self.optimizer_g)
                optim_type = train_opt['optim_d'].pop('type')
                self.optimizer_d = self.get_optimizer(optim_type, self.net_d.parameters(), **train_opt['optim_d'])
                self.optimizers.append(self.optimizer_d)

            def feed_data(self, data):
                self.gt = data['gt'].to(self.device) if 'gt' in data else None
                if 'lq' in data:
                    self.lq = data['lq'].to(self.device)
                else:
                    self.lq = torch.nn.functional.interpolate(self.gt, scale_factor=.5, mode='area')
                    self.lq = self.lq + torch.randn_like(self.lq) * .02
                self.b = self.gt.size(0)

            def optimize_parameters(self, current_iter):
                for p in self.net_d.parameters():
                    p.requires_grad = False
                self.optimizer_g.zero_grad()
                self.output = self.net_g(self.lq)
                loss_dict = OrderedDict()
                l_g_total = self.cri_pix(self.output, self.gt)
                loss_dict['l_g_pix'] = l_g_total
                l_g_percep, l_g_style = self.cri_perceptual(self.output, self.gt)
                assert l_g_style is None
                l_g_total = l_g_total + l_g_percep
                loss_dict['l_g_percep'] = l_g_percep
                l_g_gan = self.cri_gan(self.net_d(self.output), True, is_disc=False)
                l_g_total += l_g_gan
                loss_dict['l_g_gan'] = l_g_gan
                l_g_total.backward()
                self.optimizer_g.step()
                self.model_ema(decay=0.5**(32 / (10 * 1000)))
                for p in self.net_d.parameters():
                    p.requires_grad = True
                self.optimizer_d.zero_grad()
                fake_d_pred, real_d_pred = self.net_d(self.output.detach()), self.net_d(self.gt)
                l_d = self.cri_gan(real_d_pred, True, is_disc=True) + self.cri_gan(fake_d_pred, False, is_disc=True)
                loss_dict['l_d'] = l_d
                loss_dict['real_score'] = real_d_pred.detach().mean()
                l_d.backward()
                if current_iter % self.net_d_reg_every == 0:
                    self.gt.requires_grad = True
                    real_pred = self.net_d(self.gt)
                    l_d_r1 = r1_penalty(real_pred, self.gt)
                    l_d_r1 = self.r1_reg_weight / 2 * l_d_r1 * self.net_d_reg_every + 0 * real_pred.mean()
                    loss_dict['l_d_r1'] = l_d_r1.detach().mean()
                    l_d_r1.backward()
                self.optimizer_d.step()
                self.log_dict = self.reduce_loss_dict(loss_dict)

            def test(self):
                with torch.no_grad():
                    if hasattr(self, 'net_g_ema'):
                        self.net_g_ema.eval()
                        self.output = self.net_g_ema(self.lq)
                    else:
                        get_root_logger().warning('Do not have self.net_g_ema, use self.net_g.')
                        self.net_g.eval()
                        self.output = self.net_g(self.lq)
                        self.net_g.train()

            def dist_validation(self, dataloader, current_iter, tb_logger, save_img):
                if self.opt['rank'] == 0:
                    self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

            def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
                dataset_name = dataloader.dataset.opt['name']
                with_metrics = self.opt['val'].get('metrics') is not None
                use_pbar = self.opt['val'].get('pbar', False)
                if with_metrics:
                    if not hasattr(self, 'metric_results'):  # only execute in the first run
                        self.metric_results = {metric: 0 for metric in self.opt['val']['metrics'].keys()}
                    self._initialize_best_metric_results(dataset_name)
                    self.metric_results = {metric: 0 for metric in self.metric_results}
                metric_data = dict()
                if use_pbar:
                    pbar = tqdm(total=len(dataloader), unit='image')
                for idx, val_data in enumerate(dataloader):
                    img_name = osp.splitext(osp.basename(val_data['lq_path'][0]))[0]
                    self.feed_data(val_data)
                    self.test()
                    sr_img = tensor2img(self.output.detach().cpu(), min_max=(-1, 1))
                    metric_data['img'] = sr_img
                    if hasattr(self, 'gt'):
                        metric_data['img2'] = tensor2img(self.gt.detach().cpu(), min_max=(-1, 1))
                        del self.gt
                    del self.lq
                    del self.output
                    torch.cuda.empty_cache()
                    if save_img:
                        folder = self.opt['path']['visualization']
                        if self.opt['is_train']:
                            save_img_path = osp.join(folder, img_name, f'{img_name}_{current_iter}.png')
                        else:
                            save_img_path = osp.join(folder, dataset_name, f'{img_name}_{self.opt["name"]}.png')
                        imwrite(sr_img, save_img_path)
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

            def _log_validation_metric_values(self, current_iter, dataset_name, tb_logger):
                log_str = f'Own report of {dataset_name}'
                for metric, value in self.metric_results.items():
                    log_str += f' {metric}: {value:.4f}'
                    log_str += f' best {self.best_metric_results[dataset_name][metric]["val"]:.4f}'
                get_root_logger().info(log_str)
                if tb_logger:
                    for metric, value in self.metric_results.items():
                        tb_logger.add_scalar(f'metrics/{metric}', value, current_iter)

            def get_current_visuals(self):
                out_dict = OrderedDict()
                out_dict['gt'] = self.gt.detach().cpu()
                out_dict['sr'] = self.output.detach().cpu()
                return out_dict

            def save(self, epoch, current_iter):
                self.save_network([self.net_g, self.net_g_ema], 'net_g', current_iter,
                                  param_key=['params', 'params_ema'])
                self.save_network(self.net_d, 'net_d', current_iter)
                self.save_training_state(epoch, current_iter)
        """,
    "train.py": """
        # flake8: noqa
        import os.path as osp
        from basicsr.train import train_pipeline

        import grit.archs
        import grit.datas
        import grit.models

        if __name__ == '__main__':
            root_path = osp.abspath(osp.join(__file__, osp.pardir, osp.pardir))
            train_pipeline(root_path)
        """,
    "test.py": """
        # flake8: noqa
        import os.path as osp
        from basicsr.test import test_pipeline

        import grit.archs
        import grit.datas
        import grit.models

        if __name__ == '__main__':
            root_path = osp.abspath(osp.join(__file__, osp.pardir, osp.pardir))
            test_pipeline(root_path)
        """,
}

OPTIONS = """
name: Grit_x2
model_type: {model}
scale: 2
num_gpu: 0
manual_seed: 0

# ----------------- options of the degradation in GritGANModel's feed_data ----------------- #
noise_range: [1, 10]

datasets:
  train:
    name: Photos
    type: GritDataset
    dataroot_gt: {photos}
    io_backend:
      type: disk
    mean: [0.5, 0.5, 0.5]
    std: [0.5, 0.5, 0.5]
    kernel_list: ['iso', 'aniso', 'generalized_iso', 'plateau_aniso']
    kernel_prob: [0.4, 0.3, 0.2, 0.1]
    blur_sigma: [0.2, 1.5]
    gt_size: 32
    use_hflip: True
    use_rot: True
    use_shuffle: true
    num_worker_per_gpu: 0
    batch_size_per_gpu: 2
    dataset_enlarge_ratio: 2
    prefetch_mode: ~
  val:
    name: PhotosVal
    type: GritDataset
    dataroot_gt: {photos}
    io_backend:
      type: disk
    mean: [0.5, 0.5, 0.5]
    std: [0.5, 0.5, 0.5]

network_g:
  type: GritSwin
  upscale: 2
  in_chans: 3
  img_size: 16
  window_size: 4
  img_range: 1.
  depths: [1, 2]
  embed_dim: 8
  num_heads: [2, 2]
  upsampler: 'pixelshuffle'
  resi_connection: '1conv'

network_d:
  type: GritPatchDiscriminator
  num_in_ch: 3
  num_feat: 4
  skip_connection: True

path:
  pretrain_network_g: ~
  param_key_g: params_ema
  strict_load_g: true
  pretrain_network_d: ~
  resume_state: ~

train:
  ema_decay: 0.9
  optim_g:
    type: Adam
    lr: !!float 1e-3
    weight_decay: 0
    betas: [0.9, 0.99]
  optim_d:
    type: Adam
    lr: !!float 2e-3
    weight_decay: 0
    betas: [0.9, 0.99]
  scheduler:
    type: MultiStepLR
    milestones: [4]
    gamma: 0.5
  total_iter: 6
  warmup_iter: -1  # no warm up
  pixel_opt:
    type: L1Loss
    loss_weight: 1.0
    reduction: mean
  ldl_opt:
    type: L1Loss
    loss_weight: 1.0
    reduction: mean
  perceptual_opt:
    type: PerceptualLoss
    layer_weights:
      'conv1_1': 0.1
    vgg_type: vgg19
    use_input_norm: true
    range_norm: true
    perceptual_weight: !!float 1.0
    style_weight: 0
    criterion: l1
  gan_opt:
    type: GANLoss
    gan_type: vanilla
    real_label_val: 1.0
    fake_label_val: 0.0
    loss_weight: !!float 1e-1
  net_d_iters: 1
  net_d_init_iters: {init_iters}
  net_d_reg_every: 2
  r1_reg_weight: 10

val:
  val_freq: !!float 3
  save_img: true
  pbar: False
  metrics:
    psnr:
      type: calculate_psnr
      crop_border: 2
      test_y_channel: false

logger:
  print_freq: 1
  save_checkpoint_freq: !!float 3
  use_tb_logger: true
  wandb:
    project: ~
    resume_id: ~

dist_params:
  backend: nccl
  port: 29500
"""


def write_project(root):
    """Write the package `grit` with its train.py and test.py below `root`."""
    for name, text in PARTS.items():
        path = root / "grit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return root
