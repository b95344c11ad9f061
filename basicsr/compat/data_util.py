"""Lists of files, frames of videos and DUF's downsampling, as data sets written for BasicSR 1.4 import them."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.compat.images import img2tensor
from basicsr.compat.misc import scandir  # noqa: F401 - plug-ins import it from here, too
from basicsr.compat.transforms import mod_crop
from basicsr.data.listing import partner_names, with_stem
from basicsr.data.storage import FolderImages, ImageStore, LmdbImages, lmdb_key
from basicsr.images.files import read_image


def paths_from_folder(folder: str) -> list[str]:
    """Return the paths of all images in a folder and its subfolders, sorted."""
    return [str(Path(folder, name)) for name in FolderImages(Path(folder)).names()]


def paths_from_lmdb(folder: str) -> list[str]:
    """Return the keys of all images in an LMDB, in the order of its list.

    Raises:
        ValueError: when the path does not end in `.lmdb`.
    """
    return [lmdb_key(name).decode() for name in _lmdb(folder).names()]


def paired_paths_from_folder(folders: Sequence[str], keys: Sequence[str], filename_tmpl: str) -> list[dict[str, str]]:
    """Return the images of two folders as pairs `{<input>_path: ..., <gt>_path: ...}`, ordered by the ground truth.

    Args:
        folders: of inputs, and of ground truth.
        keys: names of the two, such as `["lq", "gt"]`.
        filename_tmpl: stem of the input from that of the ground truth; see `partner_names`.

    Raises:
        ValueError: when not two of each are given, or the folders have different numbers of images.
        FileNotFoundError: when a partner is missing.
    """
    inputs, truths = (FolderImages(Path(folder)) for folder in _pair_of_folders(folders, keys))
    _check_equal_numbers(inputs, truths, keys)
    return _path_pairs(folders, keys, partner_names(truths.names(), inputs, filename_tmpl), truths.names())


def paired_paths_from_meta_info_file(
    folders: Sequence[str], keys: Sequence[str], meta_info_file: str, filename_tmpl: str
) -> list[dict[str, str]]:
    """Return pairs like `paired_paths_from_folder` of the ground truth listed in a file, one a line, up to a space."""
    _pair_of_folders(folders, keys)
    lines = Path(meta_info_file).read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    truths = [line.split(" ")[0].strip() for line in lines if line.strip()]
    inputs = []
    for name in truths:
        path = PurePosixPath(name)
        inputs.append(with_stem(path, filename_tmpl).as_posix() + path.suffix)
    return _path_pairs(folders, keys, inputs, truths)


def paired_paths_from_lmdb(folders: Sequence[str], keys: Sequence[str]) -> list[dict[str, str]]:
    """Return pairs like `paired_paths_from_folder` from two LMDBs with the same keys; the paths are those keys.

    Raises:
        ValueError: when a path does not end in `.lmdb`, or their keys differ.
    """
    inputs, truths = (paths_from_lmdb(folder) for folder in _pair_of_folders(folders, keys))
    if set(inputs) != set(truths):
        different = sorted(set(inputs) ^ set(truths))[:3]
        raise ValueError(
            f"{folders[0]} and {folders[1]}: keys in the {keys[0]} and the {keys[1]} LMDB are different, such as "
            f"{', '.join(different)}; make both from folders with the same names"
        )
    return [{f"{keys[0]}_path": key, f"{keys[1]}_path": key} for key in sorted(inputs)]


def read_img_seq(
    path: str | Sequence[str], require_mod_crop: bool = False, scale: int = 1, return_imgname: bool = False
) -> Any:
    """Return all images of a folder, or of a list of paths, as one tensor (T, 3, H, W), RGB in [0, 1].

    Args:
        path: folder or paths.
        require_mod_crop: cut the sides to multiples of `scale`.
        scale: see `require_mod_crop`.
        return_imgname: return the names without suffix, too.
    """
    paths = [str(one) for one in path] if isinstance(path, (list, tuple)) else paths_from_folder(str(path))
    images: list[np.ndarray] = []
    for one in paths:
        pixels = read_image(one)
        image = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
        images.append(mod_crop(image, scale) if require_mod_crop else image)
    sequence = torch.stack(img2tensor(images, bgr2rgb=False))
    return (sequence, [Path(one).stem for one in paths]) if return_imgname else sequence


def generate_frame_indices(crt_idx: int, max_frame_num: int, num_frames: int, padding: str = "reflection") -> list[int]:
    """Return the indices of `num_frames` frames around `crt_idx` in a video of `max_frame_num`.

    Args:
        crt_idx: index of the middle frame.
        max_frame_num: frames in the video.
        num_frames: odd.
        padding: replacement of frames beyond the ends: "replicate" the last one, "reflection" about it,
            "reflection_circle" (those just beyond the other side of the window), or "circle" (window moved inside).

    Raises:
        ValueError: for an even number, or another padding.
    """
    if num_frames % 2 == 0:
        raise ValueError(f"num_frames should be an odd number, got {num_frames}")
    if padding not in ("replicate", "reflection", "reflection_circle", "circle"):
        raise ValueError(f"Wrong padding mode: {padding}.")
    last, reach = max_frame_num - 1, num_frames // 2

    def inside(index: int) -> int:
        """Return the frame of the clip that stands for `index`, which may lie before or after it."""
        before, after = index < 0, index > last
        if padding == "replicate":
            return min(max(index, 0), last)
        if padding == "reflection":
            return -index if before else 2 * last - index if after else index
        if padding == "reflection_circle":
            return crt_idx + reach - index if before else crt_idx - reach + (last - index) if after else index
        return num_frames + index if before else index - num_frames if after else index

    return [inside(index) for index in range(crt_idx - reach, crt_idx + reach + 1)]


def generate_gaussian_kernel(kernel_size: int = 13, sigma: float = 1.6) -> np.ndarray:
    """Return a Gaussian (kernel_size, kernel_size) whose sum is 1; `sigma` in pixels."""
    row = cv2.getGaussianKernel(kernel_size, sigma, cv2.CV_64F)
    return row @ row.T


def duf_downsample(x: Tensor, kernel_size: int = 13, scale: int = 4) -> Tensor:
    """Return every `scale`-th pixel of `x`, (B, T, C, H, W) or (T, C, H, W), after a Gaussian of sigma 0.4 * scale.

    Source: Jo et al., DUF, CVPR 2018.

    Raises:
        ValueError: for another scale than 2, 3 or 4.
    """
    if scale not in (2, 3, 4):
        raise ValueError(f"Only support scale (2, 3, 4), but got {scale}.")
    kernel = torch.from_numpy(generate_gaussian_kernel(kernel_size, 0.4 * scale)).to(x)
    reach = kernel_size // 2 + 2 * scale  # as published
    padded = F.pad(x.reshape(-1, 1, *x.shape[-2:]), [reach] * 4, mode="reflect")
    small = F.conv2d(padded, kernel[None, None], stride=scale)[:, :, 2:-2, 2:-2]
    return small.reshape(*x.shape[:-2], *small.shape[-2:])


def _pair_of_folders(folders: Sequence[str], keys: Sequence[str]) -> tuple[str, str]:
    if len(folders) != 2 or len(keys) != 2:
        raise ValueError(f"expected two folders and two keys (input and ground truth), got {folders} and {keys}")
    return folders[0], folders[1]


def _lmdb(folder: str) -> LmdbImages:
    if not str(folder).endswith(".lmdb"):
        raise ValueError(f"Folder {folder} should be in lmdb format.")
    return LmdbImages(Path(folder))


def _check_equal_numbers(inputs: ImageStore, truths: ImageStore, keys: Sequence[str]) -> None:
    if len(inputs.names()) != len(truths.names()):
        raise ValueError(
            f"{keys[0]} and {keys[1]} datasets have different number of images: {len(inputs.names())} in "
            f"{inputs.root}, {len(truths.names())} in {truths.root}"
        )


def _path_pairs(
    folders: Sequence[str], keys: Sequence[str], inputs: Sequence[str], truths: Sequence[str]
) -> list[dict[str, str]]:
    pairs = zip(inputs, truths, strict=True)
    return [
        {f"{keys[0]}_path": str(Path(folders[0], first)), f"{keys[1]}_path": str(Path(folders[1], second))}
        for first, second in pairs
    ]
