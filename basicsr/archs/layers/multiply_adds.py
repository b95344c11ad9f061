"""The cost of a network in multiply-adds."""

from typing import NamedTuple


class MultiplyAdds(NamedTuple):
    """Multiply-adds of one image, as papers count them: one for each product that is added up."""

    conv_linear: float  # convolutions and linear layers; what most papers mean by "Multi-Adds"
    attention: float  # products with queries, keys and values, and with token centres

    def __add__(self, other: tuple) -> "MultiplyAdds":
        return MultiplyAdds(self[0] + other[0], self[1] + other[1])
