"""The common base of the ATD networks, which recognises the weights of each of them."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn


def describe_state(keys: Iterable[str]) -> str | None:
    """Return the network of the family that a state dict with these names belongs to; None for other networks."""
    keys = list(keys)
    if any(key.startswith("encoders.") for key in keys):
        return "ATD-U"
    if any(key.endswith(".attn_aca.logit_scale") for key in keys):
        return "ATD v1"
    return "ATD v2" if any(key.endswith(".fc_td.weight") for key in keys) else None


_ADVICE = {
    "ATD v1": "build type ATD without dim_ffn_td",
    "ATD v2": "build type ATD with dim_ffn_td",
    "ATD-U": "build type ATDUNet",
}


class ATDFamily(nn.Module):
    """Base of networks whose weights come in files of the same names: loading explains a mix-up."""

    family = "ATD"
    """In the names of output files, as the published command writes them."""
    relative: str
    """The name of this network among the results of `describe_state`."""

    def explain_mismatch(self, keys: Iterable[str]) -> str:
        """Return advice where a state dict with these names belongs to another network of the family, else ""."""
        found = describe_state(keys)
        if found in (None, self.relative):
            return ""
        return f"these are weights of {found}, the network is {self.relative}: {_ADVICE[str(found)]}"

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        hint = self.explain_mismatch(key.removeprefix(prefix) for key in state_dict if key.startswith(prefix))
        if strict and hint:
            error_msgs.append(hint)
