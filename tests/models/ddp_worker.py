"""Two training steps of an SRModel in float64, on this rank's share of a fixed batch. Run by test_distributed.py."""

import sys
from pathlib import Path

import torch

from basicsr.config.load import load_options
from basicsr.engine.distributed import get_dist_info
from basicsr.engine.run import join_processes, run_command
from basicsr.engine.wrapper import bare_network
from basicsr.models import build_model


def main(options_path, out):
    torch.set_default_dtype(torch.float64)
    opt = join_processes(load_options(options_path, is_train=True), "pytorch")
    torch.manual_seed(0)
    model = build_model(opt)
    rank, world_size = get_dist_info()
    generator = torch.Generator().manual_seed(1)
    record = []
    for it in (1, 2):
        # Odd sides, so that no two pooled centres average the same tokens: rounding decides such ties.
        lq, gt = (torch.rand(4, 3, 13 * s, 17 * s, generator=generator) for s in (1, 2))
        model.update_learning_rate(it)
        model.feed_data({"lq": lq[rank::world_size], "gt": gt[rank::world_size]})
        model.optimize_parameters(it)
        net = bare_network(model.net_g)
        record.append(
            {
                "loss": model.get_current_log()["l_pix"],
                "grads": {n: p.grad.clone() for n, p in net.named_parameters()},
                "buffers": {n: b.clone() for n, b in net.named_buffers()},
            }
        )
    if rank == 0:
        torch.save({"steps": record, "params": net.state_dict(), "ema": model.ema.module.state_dict()}, out)


if __name__ == "__main__":
    sys.exit(run_command("ddp_worker", lambda: main(sys.argv[1], Path(sys.argv[2]))))
