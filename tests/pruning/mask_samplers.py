"""Resources and samplers for the tests of pruning."""

from collections import Counter

import torch

from basicsr.config.pruning import InterBlockOptions, PruneOptions
from basicsr.pruning.costs import Resource
from basicsr.pruning.samplers import build_sampler

FIXED = {2: 59_963, 4: 117_723}  # parameters of CATANet-L outside its groups, by scale
GROUP = 52_184
PATTERNS = [(2, 4), (1, 4)]


def blocks(limit, number=8):
    return Resource("blocks", 0, (1,) * number, limit)


def params(limit, scale=2, number=8):
    return Resource("params", FIXED[scale], (GROUP,) * number, limit)


def random_logits(sampler, deviation=1.0):
    with torch.no_grad():
        for logits in sampler.parameters():
            logits.normal_(0, deviation)
    return sampler


def subset(number=4, keep=2, **options):
    return random_logits(build_sampler(PruneOptions(**options), number, [blocks(keep, number)]))


def nm(patterns=PATTERNS, inter_block=None, **options):
    options = PruneOptions(sampler="nm", patterns=patterns, inter_block=inter_block or InterBlockOptions(), **options)
    return random_logits(build_sampler(options, sum(size for _, size in patterns), []))


def bernoulli(number=6, keep=3, **options):
    return build_sampler(PruneOptions(sampler="bernoulli", **options), number, [blocks(keep, number)])


SAMPLERS = {
    "subset": lambda: subset(6, 3),
    "per_block": lambda: subset(6, 3, logits="per_block"),
    "nm": nm,
    "nm without pairs": lambda: nm(inter_block=InterBlockOptions(enable=False)),
    "bernoulli": lambda: random_logits(bernoulli()),
}


def draws(sampler, count, tau=1.0, eps=0.0):
    with torch.no_grad():
        return Counter(tuple(sampler.sample(i, tau, eps).int().tolist()) for i in range(count))
