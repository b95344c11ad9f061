"""Write the reference files beside this script: `PYTHONPATH=tests python tests/golden/make_goldens.py`.

`catanet_x{2,3,4}.json`: names and shapes of the published state dicts, from the key list and not from a network.
`catanet_*.pt`: inputs and outputs of the literal network (`reference/catanet_literal.py`) in float64, from fixed seeds.
Run it only when the specification changes, never to make a failing test pass.
"""

import json
from copy import deepcopy
from pathlib import Path

import torch
from reference import catanet_literal
from reference.catanet_literal import LiteralCATANet

FOLDER = Path(__file__).parent

# Unequal head widths (3 and 4), overlapping and single patches, more centres than tokens fill.
TINY = {
    "dim": 8,
    "block_num": 2,
    "qk_dim": 6,
    "mlp_dim": 12,
    "heads": 2,
    "patch_size": [5, 12],
    "num_tokens": [6, 40],
    "group_size": [32, 16],
    "n_iters": [1, 3],
}
SIZE = (11, 13)
LEARNING_RATE = 1e-3


def published_layout(upscale: int) -> dict[str, list[int]]:
    """Names and shapes of a published CATANet-L file."""
    dim, qk_dim, mlp_dim = 40, 36, 96
    ffn = {
        "norm.weight": [dim],
        "norm.bias": [dim],
        "fn.fc1.weight": [mlp_dim, dim],
        "fn.fc1.bias": [mlp_dim],
        "fn.dwconv.depthwise_conv.0.weight": [mlp_dim, 1, 5, 5],
        "fn.dwconv.depthwise_conv.0.bias": [mlp_dim],
        "fn.fc2.weight": [dim, mlp_dim],
        "fn.fc2.bias": [dim],
    }
    qkv = {"to_q.weight": [qk_dim, dim], "to_k.weight": [qk_dim, dim], "to_v.weight": [dim, dim]}
    layout = {"first_conv.weight": [dim, 3, 3, 3], "first_conv.bias": [dim]}
    for i, num_tokens in enumerate([16, 32, 64, 128] * 2):
        tab, lrsa = f"blocks.{i}.0", f"blocks.{i}.1.layer"
        layout |= {f"{tab}.means": [num_tokens, dim], f"{tab}.initted": []}
        layout |= {f"{tab}.norm.weight": [dim], f"{tab}.norm.bias": [dim]}
        layout |= {f"{tab}.mlp.{name}": shape for name, shape in ffn.items()}
        layout |= {f"{tab}.irca_attn.to_k.weight": [qk_dim, dim], f"{tab}.irca_attn.to_v.weight": [dim, dim]}
        layout |= {f"{tab}.iasa_attn.{name}": shape for name, shape in qkv.items()}
        layout |= {f"{tab}.iasa_attn.proj.weight": [dim, dim], f"{tab}.conv1x1.weight": [dim, dim, 1, 1]}
        layout |= {f"{lrsa}.0.norm.weight": [dim], f"{lrsa}.0.norm.bias": [dim]}
        layout |= {f"{lrsa}.0.fn.{name}": shape for name, shape in qkv.items()}
        layout |= {f"{lrsa}.0.fn.proj.weight": [dim, dim]}
        layout |= {f"{lrsa}.1.{name}": shape for name, shape in ffn.items()}
    for i in range(8):
        layout |= {f"mid_convs.{i}.weight": [dim, dim, 3, 3], f"mid_convs.{i}.bias": [dim]}
    for name in ["upconv1", "upconv2"] if upscale == 4 else ["upconv"]:
        wide = dim * (4 if upscale == 4 else upscale**2)
        layout |= {f"{name}.weight": [wide, dim, 3, 3], f"{name}.bias": [wide]}
    return layout | {"last_conv.weight": [3, dim, 3, 3], "last_conv.bias": [3]}


def perturbed_network(upscale: int, initialised: bool) -> LiteralCATANet:
    """A float64 network in which every parameter matters, token centres set or not."""
    net = LiteralCATANet(upscale=upscale, **TINY).double()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    for tab, _ in net.blocks:
        tab.initted.fill_(initialised)
    return net


def refuse_near_ties() -> None:
    """Make `nearest` raise where rounding could decide: another machine would then not get the same numbers."""
    nearest = catanet_literal.nearest

    def checked(zn, c):
        first, second = (zn @ c.t()).topk(2).values.unbind(-1)
        if (first - second).min() < 1e-6:
            raise RuntimeError("two centres are equally near to a token; take another seed")
        return nearest(zn, c)

    catanet_literal.nearest = checked


def evaluation(upscale: int, initialised: bool, batch: int) -> dict:
    net = perturbed_network(upscale, initialised).eval()
    lq = torch.rand(batch, 3, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        output = net(lq)
    return {"config": {"upscale": upscale, **TINY}, "state_dict": net.state_dict(), "input": lq, "output": output}


def training(upscale: int, steps: int) -> dict:
    """Plain gradient descent on the L1 loss from unset centres."""
    net = perturbed_network(upscale, initialised=False).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE)
    record = {"config": {"upscale": upscale, **TINY}, "lr": LEARNING_RATE, "state_dict": deepcopy(net.state_dict())}
    record |= {"inputs": torch.rand(steps, 2, 3, *SIZE, dtype=torch.float64), "losses": []}
    record["targets"] = torch.rand(steps, 2, 3, upscale * SIZE[0], upscale * SIZE[1], dtype=torch.float64)
    for lq, gt in zip(record["inputs"], record["targets"], strict=True):
        loss = (net(lq) - gt).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        record.setdefault("first_grads", {name: p.grad.clone() for name, p in net.named_parameters()})
        optimizer.step()
        record["losses"].append(loss.item())
    centres = {name: value for name, value in net.state_dict().items() if name.endswith("means")}
    return record | {"final_means": centres}


def main() -> None:
    for upscale in (2, 3, 4):
        lines = [f"  {json.dumps(name)}: {json.dumps(shape)}" for name, shape in published_layout(upscale).items()]
        (FOLDER / f"catanet_x{upscale}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    refuse_near_ties()
    torch.manual_seed(3407)
    torch.save(evaluation(upscale=4, initialised=True, batch=1), FOLDER / "catanet_eval.pt")
    torch.save(evaluation(upscale=1, initialised=False, batch=2), FOLDER / "catanet_eval_uninitialised.pt")
    torch.save(training(upscale=2, steps=2), FOLDER / "catanet_train.pt")


if __name__ == "__main__":
    main()
