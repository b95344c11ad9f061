"""Steps of a PruneDistillModel in float64, on this rank's share of fixed batches. Run by test_prune_distributed.py."""

import sys
from pathlib import Path

import torch

from basicsr.config.load import load_options, resolve
from basicsr.engine.distributed import get_dist_info
from basicsr.engine.run import join_processes, run_command
from basicsr.engine.wrapper import bare_network
from basicsr.models import build_model
from basicsr.pruning import compaction, finalize


def shorten(set_attribute):
    """Skip the page, and check the cut network on small images."""
    set_attribute(finalize, "write_page", str)
    set_attribute(compaction, "SHAPES", ((1, 9, 11),))


def batch(it):
    """Return the share of this process of the batch of an iteration."""
    rank, world_size = get_dist_info()
    generator = torch.Generator().manual_seed(it)
    whole = {name: torch.rand(4, 3, 9 * s, 11 * s, generator=generator) for name, s in (("lq", 1), ("gt", 2))}
    return {name: images[rank::world_size] for name, images in whole.items()}


def logits_of(model):
    return {} if model.search is None else {n: p.detach().clone() for n, p in model.masked.sampler.named_parameters()}


def masks_of(model):
    """Return the masks of this iteration; writing the log removes those of the last one."""
    return [] if model.search is None else [mask.tolist() for mask in model.draws.since_log or [model.masked.mask]]


def train(opt):
    """Return masks, losses, logits and gradients of each iteration, and the final weights; write the cut network."""
    torch.manual_seed(0)
    Path(opt.path.log).mkdir(parents=True, exist_ok=True)
    model = build_model(opt)
    net, record = bare_network(model.net_g), []
    for it in range(1, opt.train.total_iter + 1):
        model.update_learning_rate(it)
        model.feed_data(batch(it))
        model.optimize_parameters(it)
        learning = model.net_g if model.search is None else model.masked
        record.append(
            {
                "losses": model.get_current_log(),
                "masks": masks_of(model),
                "logits": logits_of(model),
                "gradients": {n.removeprefix("module."): p.grad for n, p in learning.named_parameters()},
            }
        )
        record[-1]["gradients"] = {n: g.clone() for n, g in record[-1]["gradients"].items() if g is not None}
        model.draws.since_log.clear()
    model.finish((0, batch(it)) for it in range(100, 110))
    adapters = {n: p.detach().clone() for n, p in model.distillation.features.named_parameters()}
    return {"steps": record, "net": net.state_dict(), "adapters": adapters}, model


def disagreement(model):
    """Return the error for logits that differ on rank 1."""
    rank, _ = get_dist_info()
    model.masked.check_ranks_agree(7)
    with torch.no_grad():
        model.masked.sampler.logits[2] += 0.25 * rank
    try:
        model.masked.check_ranks_agree(8)
    except RuntimeError as error:
        return str(error)
    return "no error"


def main(out, *option_files):
    torch.set_default_dtype(torch.float64)
    shorten(setattr)
    result, opt = {}, None
    for path in option_files:
        loaded = load_options(path, is_train=True)
        if opt is None:
            opt = join_processes(loaded, "pytorch")
        else:
            opt = resolve(loaded, launcher="pytorch", rank=opt.rank, world_size=opt.world_size)
        result[opt.name], model = train(opt)
        if opt.name == "search":
            result["disagreement"] = disagreement(model)
    torch.save(result, f"{out}.{get_dist_info()[0]}")


if __name__ == "__main__":
    sys.exit(run_command("prune_ddp_worker", lambda: main(*sys.argv[1:])))
