"""All functions of the Triton kernels that layers call. Needs Triton."""

from basicsr.archs.kernels.global_attention import global_attention
from basicsr.archs.kernels.kmeans import kmeans_sums, nearest_centre
from basicsr.archs.kernels.layer_norm import layer_norm
from basicsr.archs.kernels.window_attention import window_attention

__all__ = ["global_attention", "kmeans_sums", "layer_norm", "nearest_centre", "window_attention"]
