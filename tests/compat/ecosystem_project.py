"""A project in the manner of those that build on an installed BasicSR 1.4, to be written outside the package.

Its models fill their results lazily, step `self.optimizer_g`, derive from `BaseModel`, or run in a train.py of their
own.
"""

import textwrap

PARTS = {
    "archs/tiny_arch.py": """
        from torch import nn

        from basicsr.utils.registry import ARCH_REGISTRY


        @ARCH_REGISTRY.register()
        class TinySwin(nn.Module):

            def __init__(self, upscale=2, embed_dim=8, window_size=4, img_range=1., **kwargs):
                super().__init__()
                self.conv = nn.Conv2d(3, embed_dim, 3, 1, 1)
                self.norm = nn.LayerNorm(embed_dim)
                self.attn = nn.MultiheadAttention(embed_dim, 2, batch_first=True)
                self.up = nn.Sequential(nn.Conv2d(embed_dim, 3 * upscale**2, 3, 1, 1), nn.PixelShuffle(upscale))
                self.window_size = window_size

            def forward(self, x):
                x = self.conv(x)
                b, c, h, w = x.shape
                s = self.window_size
                assert h % s == 0 and w % s == 0
                x = x.view(b, c, h // s, s, w // s, s).permute(0, 2, 4, 3, 5, 1).reshape(-1, s * s, c)
                x = x + self.attn(self.norm(x), self.norm(x), self.norm(x))[0]
                x = x.view(b, h // s, w // s, s, s, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
                return self.up(x)
        """,
    "data/tiny_dataset.py": """
        import cv2
        import numpy as np
        from torch.utils import data as data
        from torchvision.transforms.functional import normalize

        from basicsr.data.data_util import paths_from_folder, scandir
        from basicsr.data.transforms import augment
        from basicsr.utils import FileClient, img2tensor
        from basicsr.utils.registry import DATASET_REGISTRY


        @DATASET_REGISTRY.register()
        class TinyNormalizedDataset(data.Dataset):

            def __init__(self, opt):
                super(TinyNormalizedDataset, self).__init__()
                self.opt = opt
                self.mean = opt['mean'] if 'mean' in opt else None
                self.std = opt['std'] if 'std' in opt else None
                self.paths = sorted(paths_from_folder(opt['dataroot_gt']))
                assert len(self.paths) == len(list(scandir(opt['dataroot_gt'])))

            def __getitem__(self, index):
                gt = cv2.imread(self.paths[index]).astype(np.float32) / 255.
                size = self.opt['gt_size']
                if self.opt['phase'] == 'train':
                    top, left = np.random.randint(0, gt.shape[0] - size), np.random.randint(0, gt.shape[1] - size)
                    gt = augment(gt[top:top + size, left:left + size], True, True)
                else:
                    gt = gt[:size, :size]
                lq = cv2.resize(gt, None, fx=.5, fy=.5, interpolation=cv2.INTER_AREA)
                gt, lq = img2tensor([gt, lq], bgr2rgb=True, float32=True)
                if self.mean is not None or self.std is not None:
                    normalize(lq, self.mean, self.std, inplace=True)
                    normalize(gt, self.mean, self.std, inplace=True)
                return {'lq': lq, 'gt': gt, 'lq_path': self.paths[index], 'gt_path': self.paths[index]}

            def __len__(self):
                return len(self.paths)
        """,
    "models/tiny_model.py": """
        import os.path as osp
        from collections import OrderedDict

        import torch

        from basicsr.archs import build_network
        from basicsr.losses import build_loss
        from basicsr.metrics import calculate_metric
        from basicsr.models.base_model import BaseModel
        from basicsr.models.sr_model import SRModel
        from basicsr.utils import get_root_logger, imwrite, tensor2img
        from basicsr.utils.registry import MODEL_REGISTRY


        def validate(self, dataloader, current_iter, tb_logger, save_img):
            dataset_name = dataloader.dataset.opt['name']
            with_metrics = self.opt['val'].get('metrics') is not None
            if with_metrics:
                if not hasattr(self, 'metric_results'):  # only execute in the first run
                    self.metric_results = {metric: 0 for metric in self.opt['val']['metrics'].keys()}
                if hasattr(self, '_initialize_best_metric_results'):
                    self._initialize_best_metric_results(dataset_name)
                for metric in self.metric_results:
                    self.metric_results[metric] = 0
            for idx, val_data in enumerate(dataloader):
                name = osp.splitext(osp.basename(val_data['lq_path'][0]))[0]
                self.feed_data(val_data)
                self.test()
                visuals = self.get_current_visuals()
                img = tensor2img([visuals['result']], min_max=(-1, 1))
                data = {'img': img}
                if 'gt' in visuals:
                    data['img2'] = tensor2img([visuals['gt']], min_max=(-1, 1))
                    del self.gt
                del self.lq
                del self.output
                if save_img:
                    path = osp.join(self.opt['path']['visualization'], dataset_name, f'{name}_{current_iter}.png')
                    imwrite(img, path)
                if with_metrics:
                    for metric, opt_ in self.opt['val']['metrics'].items():
                        self.metric_results[metric] += calculate_metric(data, opt_)
            if with_metrics:
                for metric in self.metric_results.keys():
                    self.metric_results[metric] /= (idx + 1)


        @MODEL_REGISTRY.register()
        class TinyLazyModel(SRModel):

            def optimize_parameters(self, current_iter):
                self.optimizer_g.zero_grad()
                self.output = self.net_g(self.lq)
                l_total = 0
                loss_dict = OrderedDict()
                if self.cri_pix:
                    l_pix = self.cri_pix(self.output, self.gt)
                    l_total += l_pix
                    loss_dict['l_pix'] = l_pix
                if self.cri_perceptual:
                    l_percep, l_style = self.cri_perceptual(self.output, self.gt)
                    if l_percep is not None:
                        l_total += l_percep
                        loss_dict['l_percep'] = l_percep
                    if l_style is not None:
                        l_total += l_style
                        loss_dict['l_style'] = l_style
                l_total.backward()
                torch.nn.utils.clip_grad_norm_(self.net_g.parameters(), 0.5)
                self.optimizer_g.step()
                self.log_dict = self.reduce_loss_dict(loss_dict)
                self.log_dict['share'] = 0.5
                if self.ema_decay > 0:
                    self.model_ema(decay=self.ema_decay)

            def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
                validate(self, dataloader, current_iter, tb_logger, save_img)


        @MODEL_REGISTRY.register()
        class TinyHookModel(BaseModel):
            '''All hooks by itself, but no validation.'''

            def __init__(self, opt):
                super(TinyHookModel, self).__init__(opt)
                self.net_g = self.model_to_device(build_network(opt['network_g']))
                self.print_network(self.net_g)
                load_path = self.opt['path'].get('pretrain_network_g', None)
                if load_path is not None:
                    self.load_network(self.net_g, load_path, self.opt['path'].get('strict_load_g', True), 'params')
                if self.is_train:
                    self.init_training_settings()

            def init_training_settings(self):
                self.net_g.train()
                train_opt = self.opt['train']
                self.cri_pix = build_loss(train_opt['pixel_opt']).to(self.device)
                optim_type = train_opt['optim_g'].pop('type')
                assert optim_type == 'AdamW'
                self.optimizer_g = torch.optim.AdamW(self.net_g.parameters(), **train_opt['optim_g'])
                self.optimizers.append(self.optimizer_g)
                assert self.schedulers == []
                self.setup_schedulers()

            def setup_schedulers(self):
                for optimizer in self.optimizers:
                    self.schedulers.append(torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5))

            def feed_data(self, data):
                self.lq = data['lq'].to(self.device)
                if 'gt' in data:
                    self.gt = data['gt'].to(self.device)

            def optimize_parameters(self, current_iter):
                self.optimizer_g.zero_grad()
                self.output = self.net_g(self.lq)
                l_pix = self.cri_pix(self.output, self.gt)
                l_pix.backward()
                self.optimizer_g.step()
                self.log_dict = self.reduce_loss_dict(OrderedDict(l_pix=l_pix))

            def test(self):
                self.net_g.eval()
                with torch.no_grad():
                    self.output = self.net_g(self.lq)
                self.net_g.train()

            def get_current_visuals(self):
                out_dict = OrderedDict()
                out_dict['lq'] = self.lq.detach().cpu()
                out_dict['result'] = self.output.detach().cpu()
                if hasattr(self, 'gt'):
                    out_dict['gt'] = self.gt.detach().cpu()
                return out_dict

            def save(self, epoch, current_iter):
                self.save_network(self.net_g, 'net_g', current_iter)
                self.save_training_state(epoch, current_iter)


        @MODEL_REGISTRY.register()
        class TinyBaseModel(TinyHookModel):
            '''Validates by itself, too.'''

            def dist_validation(self, dataloader, current_iter, tb_logger, save_img):
                if self.opt['rank'] == 0:
                    self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

            def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
                get_root_logger().info('own validation')
                validate(self, dataloader, current_iter, tb_logger, save_img)
        """,
    "train.py": """
        import os.path as osp

        import tiny.archs.tiny_arch
        import tiny.data.tiny_dataset
        import tiny.models.tiny_model
        from basicsr.train import train_pipeline

        if __name__ == '__main__':
            train_pipeline(osp.abspath(osp.join(__file__, osp.pardir, osp.pardir)))
        """,
    "test.py": """
        import os.path as osp

        import tiny.archs.tiny_arch
        import tiny.data.tiny_dataset
        import tiny.models.tiny_model
        from basicsr.test import test_pipeline

        if __name__ == '__main__':
            test_pipeline(osp.abspath(osp.join(__file__, osp.pardir, osp.pardir)))
        """,
    "own_train.py": """
        import datetime
        import logging
        import math
        import os
        import time
        from os import path as osp

        import torch

        from basicsr.data import build_dataloader, build_dataset
        from basicsr.data.data_sampler import EnlargedSampler
        from basicsr.data.prefetch_dataloader import CPUPrefetcher, CUDAPrefetcher
        from basicsr.models import build_model
        from basicsr.utils import (AvgTimer, MessageLogger, check_resume, get_env_info, get_root_logger, get_time_str,
                                   init_tb_logger, init_wandb_logger, make_exp_dirs, mkdir_and_rename, scandir)
        from basicsr.utils.options import copy_opt_file, dict2str, parse_options

        import tiny.archs.tiny_arch
        import tiny.data.tiny_dataset
        import tiny.models.tiny_model


        def create_train_val_dataloader(opt, logger):
            train_loader, val_loaders = None, []
            for phase, dataset_opt in opt['datasets'].items():
                if phase == 'train':
                    dataset_enlarge_ratio = dataset_opt.get('dataset_enlarge_ratio', 1)
                    train_set = build_dataset(dataset_opt)
                    train_sampler = EnlargedSampler(train_set, opt['world_size'], opt['rank'], dataset_enlarge_ratio)
                    train_loader = build_dataloader(
                        train_set,
                        dataset_opt,
                        num_gpu=opt['num_gpu'],
                        dist=opt['dist'],
                        sampler=train_sampler,
                        seed=opt['manual_seed'])
                    batch_size = dataset_opt['batch_size_per_gpu'] * opt['world_size']
                    num_iter_per_epoch = math.ceil(len(train_set) * dataset_enlarge_ratio / batch_size)
                    total_iters = int(opt['train']['total_iter'])
                    total_epochs = math.ceil(total_iters / (num_iter_per_epoch))
                elif phase.split('_')[0] == 'val':
                    val_set = build_dataset(dataset_opt)
                    val_loader = build_dataloader(
                        val_set, dataset_opt, num_gpu=opt['num_gpu'], dist=opt['dist'], sampler=None,
                        seed=opt['manual_seed'])
                    val_loaders.append(val_loader)
            return train_loader, train_sampler, val_loaders, total_epochs, total_iters


        def load_resume_state(opt):
            folder = osp.join(opt['path']['experiments_root'], 'training_states')
            resume_state_path = None
            if opt['auto_resume'] and osp.isdir(folder):
                states = list(scandir(folder, suffix='state', recursive=False, full_path=False))
                if len(states) != 0:
                    states = [float(v.split('.state')[0]) for v in states]
                    resume_state_path = osp.join(folder, f'{max(states):.0f}.state')
                    opt['path']['resume_state'] = resume_state_path
            if resume_state_path is None:
                return None
            resume_state = torch.load(resume_state_path, map_location='cpu')
            check_resume(opt, resume_state['iter'])
            return resume_state


        def train(root_path):
            opt, args = parse_options(root_path, is_train=True)
            opt['root_path'] = root_path
            resume_state = load_resume_state(opt)
            if resume_state is None:
                make_exp_dirs(opt)
                mkdir_and_rename(osp.join(opt['root_path'], 'tb_logger', opt['name']))
            copy_opt_file(args.opt, opt['path']['experiments_root'])
            log_file = osp.join(opt['path']['log'], f"train_{opt['name']}_{get_time_str()}.log")
            logger = get_root_logger(logger_name='basicsr', log_level=logging.INFO, log_file=log_file)
            logger.info(get_env_info())
            logger.info(dict2str(opt))
            if opt['logger'].get('wandb') is not None:
                init_wandb_logger(opt)
            tb_logger = init_tb_logger(log_dir=osp.join(opt['root_path'], 'tb_logger', opt['name']))
            result = create_train_val_dataloader(opt, logger)
            train_loader, train_sampler, val_loaders, total_epochs, total_iters = result
            model = build_model(opt)
            start_epoch = current_iter = 0
            if resume_state:
                model.resume_training(resume_state)
                logger.info(f"Resuming training from epoch: {resume_state['epoch']}, iter: {resume_state['iter']}.")
                start_epoch, current_iter = resume_state['epoch'], resume_state['iter']
            msg_logger = MessageLogger(opt, current_iter, tb_logger)
            prefetcher = CUDAPrefetcher(train_loader, opt) if start_epoch else CPUPrefetcher(train_loader)
            data_timer, iter_timer = AvgTimer(), AvgTimer()
            start_time = time.time()
            for epoch in range(start_epoch, total_epochs + 1):
                train_sampler.set_epoch(epoch)
                prefetcher.reset()
                train_data = prefetcher.next()
                while train_data is not None:
                    data_timer.record()
                    current_iter += 1
                    if current_iter > total_iters:
                        break
                    model.update_learning_rate(current_iter, warmup_iter=opt['train'].get('warmup_iter', -1))
                    model.feed_data(train_data)
                    model.optimize_parameters(current_iter)
                    iter_timer.record()
                    if current_iter == 1:
                        msg_logger.reset_start_time()
                    if current_iter % opt['logger']['print_freq'] == 0:
                        log_vars = {'epoch': epoch, 'iter': current_iter}
                        log_vars.update({'lrs': model.get_current_learning_rate()})
                        log_vars.update({'time': iter_timer.get_avg_time(), 'data_time': data_timer.get_avg_time()})
                        log_vars.update(model.get_current_log())
                        msg_logger(log_vars)
                    if current_iter % opt['logger']['save_checkpoint_freq'] == 0:
                        logger.info('Saving models and training states.')
                        model.save(epoch, current_iter)
                    if opt.get('val') is not None and (current_iter % opt['val']['val_freq'] == 0):
                        for val_loader in val_loaders:
                            model.validation(val_loader, current_iter, tb_logger, opt['val']['save_img'])
                    data_timer.start()
                    iter_timer.start()
                    train_data = prefetcher.next()
            consumed_time = str(datetime.timedelta(seconds=int(time.time() - start_time)))
            logger.info(f'End of training. Time consumed: {consumed_time}')
            model.save(epoch=-1, current_iter=-1)
            for val_loader in val_loaders:
                model.validation(val_loader, current_iter, tb_logger, opt['val']['save_img'])
            tb_logger.close()


        if __name__ == '__main__':
            train(osp.abspath(osp.join(__file__, osp.pardir, osp.pardir)))
        """,
}

TRAIN_YML = """
name: Tiny_x2
model_type: {model}
scale: 2
num_gpu: 0
manual_seed: 0

datasets:
  train:
    name: Photos
    type: TinyNormalizedDataset
    dataroot_gt: {photos}
    gt_size: 32
    mean: [0.5, 0.5, 0.5]
    std: [0.5, 0.5, 0.5]
    io_backend:
      type: disk
    use_shuffle: true
    num_worker_per_gpu: 0
    batch_size_per_gpu: 2
    dataset_enlarge_ratio: 2
    prefetch_mode: ~
  val:
    name: PhotosVal
    type: TinyNormalizedDataset
    dataroot_gt: {photos}
    gt_size: 32
    mean: [0.5, 0.5, 0.5]
    std: [0.5, 0.5, 0.5]
    io_backend:
      type: disk

network_g:
  type: TinySwin
  upscale: 2
  in_chans: 3
  img_size: 16
  window_size: 4
  img_range: 1.
  resi_connection: '1conv'

path:
  pretrain_network_g: ~
  strict_load_g: true
  resume_state: ~

train:
  ema_decay: 0.9
  optim_g:
    type: AdamW
    lr: !!float 1e-3
    weight_decay: 0
    betas: [0.9, 0.99]
  scheduler:
    type: MultiStepLR
    milestones: [4]
    gamma: 0.5
  total_iter: 6
  warmup_iter: -1
  pixel_opt:
    type: L1Loss
    loss_weight: 1.0
    reduction: mean
{more}

val:
  val_freq: !!float 3
  save_img: true
  metrics:
    psnr:
      type: calculate_psnr
      crop_border: 2
      test_y_channel: false
    niqe:
      type: calculate_niqe
      crop_border: 2

logger:
  print_freq: 1
  save_checkpoint_freq: !!float 3
  use_tb_logger: false
  wandb:
    project: ~
    resume_id: ~

dist_params:
  backend: nccl
  port: 29500
"""

PERCEPTUAL = """
  perceptual_opt:
    type: PerceptualLoss
    layer_weights:
      'conv1_1': 0.1
    vgg_type: vgg19
    use_input_norm: true
    perceptual_weight: 1.0
    style_weight: {style}
    range_norm: true
    criterion: l1
"""


def write_project(root):
    """Write the package `tiny`, its train.py, test.py and own_train.py, below `root`."""
    for name, text in PARTS.items():
        path = root / "tiny" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        (path.parent / "__init__.py").touch()
    return root
