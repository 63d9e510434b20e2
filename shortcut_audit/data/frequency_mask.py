"""`FrequencyMask`: DFT masks as a kornia augmentation, for anybody's pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from kornia.augmentation import IntensityAugmentationBase2D
from numpy.typing import NDArray
from torch import Tensor

from shortcut_audit.data.mask_files import read_masks
from shortcut_audit.errors import SettingsError
from shortcut_audit.fourier.grid import FrequencyGrid
from shortcut_audit.fourier.masks import require_hermitian

__all__ = ["FrequencyMask"]

# sampler(n): for n images their numbers among the masks, or masks of their own.
Sampler = Callable[[int], Tensor]


class FrequencyMask(IntensityAugmentationBase2D):  # type: ignore[misc]
    """Keeps, or removes, orbits of the Fourier plane of images (B, C, H, W), as a kornia augmentation.

    `mask`: text (`"band:1/4"`, docs/filtering.md), or an array or tensor, bool or weights in [0,1], of
    shape (n_orbits,), (H, W//2+1) as `torch.fft.rfft2` lies, or (H, W) as `torch.fft.fft2` lies; with a
    leading axis, one of n masks is drawn for each image. Or a callable that draws for a batch:
    `mask(n)` returns n such masks. `size`: N or (H, W) of the images.

    `keep`: False removes the mask. `dc`: the mean stays (`"keep"`), goes (`"drop"`) or does as the mask
    says (`"mask"`). `clip` to [0,1]; otherwise nothing is clipped, and pixels may be of any range.
    `classes`: names, in label order, for text with `map:RUN:own`, which makes a mask for each.

    `module(images, mask_index=labels)` says which of n masks each image gets. Differentiable; computed in
    float32 where images are half precision. Raises SettingsError for a mask that does not fit the
    size or is not Hermitian, with how to symmetrise it.

    >>> images = torch.rand(2, 3, 32, 32)
    >>> low, high = FrequencyMask("band:1/4", 32), FrequencyMask("band:1/4", 32, keep=False, dc="drop")
    >>> torch.allclose(low(images) + high(images), images, atol=1e-6)
    True
    """

    def __init__(
        self,
        mask: str | NDArray[Any] | Tensor | Sampler,
        size: int | tuple[int, int],
        *,
        keep: bool = True,
        dc: str = "keep",
        clip: bool = False,
        classes: Sequence[str] | None = None,
        p: float = 1.0,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        if dc not in {"keep", "drop", "mask"}:
            raise SettingsError(f"dc {dc!r} is no rule.", "One of: keep, drop, mask.")
        height, width = (size, size) if isinstance(size, int) else size
        self.grid = FrequencyGrid(height, width)
        self.flags = {"keep": keep, "dc": dc, "clip": clip}
        self.sampler: Sampler | None = None
        self.text = mask if isinstance(mask, str) else None
        self.register_buffer("mask", None)
        if isinstance(mask, str):
            found = read_masks(mask, self.grid, tuple(classes or ("",)))
            self.mask = _half_planes(found.chosen if found.per_class else found.chosen[:1], self.grid)
        elif isinstance(mask, np.ndarray | Tensor):
            self.mask = _half_planes(mask, self.grid).detach().clone()
        elif callable(mask):
            self.sampler = mask
        else:
            raise SettingsError(
                f"A mask of type {type(mask).__name__} cannot be read.",
                "Give text, an array, a tensor or a callable.",
            )

    def __repr__(self) -> str:
        what = repr(self.text) if self.text is not None else self.sampler or "..."
        n_masks = f", {len(self.mask)} masks" if self.mask is not None and len(self.mask) > 1 else ""
        rest = super().__repr__().partition("(")[2]
        return f"{type(self).__name__}({what}, {self.grid.height} x {self.grid.width}{n_masks}, {rest}"

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Which mask each image gets: `mask_index` (B,), or masks of their own, `mask` (B, H, W//2+1)."""
        n_images = batch_shape[0]
        n_drawn = min(n_images, 1) if self.same_on_batch else n_images
        if self.sampler is None:
            drawn = torch.randint(len(self.mask), (n_drawn,), device=self.device)
            return {"mask_index": drawn.expand(n_images)}
        masks = _half_planes(self.sampler(n_drawn), self.grid) if n_drawn else self._no_masks()
        if len(masks) != n_drawn:
            raise SettingsError(
                f"The sampler drew {len(masks)} masks for {n_drawn} images.", "Draw one for each."
            )
        return {"mask": masks.expand(n_images, -1, -1)}

    def _no_masks(self) -> Tensor:
        return torch.zeros(0, self.grid.height, self.grid.n_half_columns, dtype=torch.bool)

    def apply_transform(
        self,
        input: Tensor,  # noqa: A002  (kornia's name)
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Filtered images, of the dtype of `input` (B, C, H, W)."""
        del transform
        if input.shape[-2:] != (self.grid.height, self.grid.width):
            raise SettingsError(
                f"The mask is of {self.grid.height} x {self.grid.width} images, and these have"
                f" {input.shape[-2]} x {input.shape[-1]} pixels.",
                f"Make one for them: FrequencyMask(..., size={tuple(input.shape[-2:])})",
            )
        if input.numel() == 0:
            return input
        # FFTs of half precision exist for some sizes on some devices, and lose digits on all.
        pixels = input if input.dtype in {torch.float32, torch.float64} else input.float()
        left = self._left(params, pixels, flags)
        filtered = torch.fft.irfft2(torch.fft.rfft2(pixels) * left, s=pixels.shape[-2:])
        if flags["clip"]:
            filtered = filtered.clamp(0, 1)
        left_over: Tensor = filtered.to(input.dtype)
        return left_over

    def _left(self, params: dict[str, Tensor], pixels: Tensor, flags: dict[str, Any]) -> Tensor:
        """What stays of each bin: weights (B or 1, 1, H, W//2+1), of the dtype of `pixels`."""
        masks = self._masks(params, len(pixels)).to(pixels.device, pixels.dtype)[:, None]
        left = masks if flags["keep"] else 1 - masks
        if flags["dc"] != "mask":
            left = left.clone()
            left[..., 0, 0] = float(flags["dc"] == "keep")
        return left

    def _masks(self, params: dict[str, Tensor], n_images: int) -> Tensor:
        """The mask of each image, (B or 1, H, W//2+1)."""
        if "mask" in params:
            return _rows(params["mask"], params, n_images)
        if self.mask is None:
            raise SettingsError("The parameters hold no mask.", "Leave them out, to draw some.")
        index = params.get("mask_index")
        if index is None or len(self.mask) == 1:
            return self.mask[:1]
        index = _rows(index.reshape(-1), params, n_images).to(self.mask.device)
        if index.device.type == "cpu" and not torch.compiler.is_compiling():
            low, high = int(index.min()), int(index.max())
            if low < 0 or high >= len(self.mask):
                raise SettingsError(
                    f"There is no mask {low if low < 0 else high} among {len(self.mask)}.",
                    "mask_index counts from 0.",
                )
        return self.mask[index]


def _rows(values: Tensor, params: dict[str, Tensor], n_images: int) -> Tensor:
    """Those of `values`, one an image of the whole batch, that belong to the images at hand."""
    if len(values) in {1, n_images}:
        return values
    applied = params["batch_prob"].to(values.device) > 0.5
    # Some versions of kornia pass on the images alone that are to be changed.
    if len(values) == len(applied) and int(applied.sum()) == n_images:
        return values[applied]
    raise SettingsError(f"There are {len(values)} masks for {n_images} images.", "Give one for each.")


def _half_planes(masks: NDArray[Any] | Tensor, grid: FrequencyGrid) -> Tensor:
    """Masks of any of the three shapes as (n, H, W//2+1), bool or float32, Hermitian and in [0,1]."""
    # Copied, as arrays may be read-only, and a mask should not change under our hands.
    tensor = masks if isinstance(masks, Tensor) else torch.tensor(masks)
    if tensor.dtype != torch.bool:
        tensor = tensor.to(torch.float32)
    half, full = (grid.height, grid.n_half_columns), (grid.height, grid.width)
    if tensor.ndim in {2, 3} and tuple(tensor.shape[-2:]) in {half, full}:
        planes = tensor if tensor.ndim == 3 else tensor[None]
        if planes.shape[-1] == grid.width and half != full:
            _check_full(planes, grid)
            planes = planes[..., : grid.n_half_columns]
        _check_half(planes, grid)
    elif tensor.ndim in {1, 2} and tensor.shape[-1] == grid.n_orbits:
        rows = tensor if tensor.ndim == 2 else tensor[None]
        planes = rows[:, torch.from_numpy(grid.orbit_of_bin).to(rows.device)]
    else:
        raise SettingsError(
            f"A mask of shape {tuple(tensor.shape)} does not fit {grid.height} x {grid.width} images.",
            f"Shapes are ({grid.n_orbits},), {half} and {full}, each with an axis of n masks before it.",
        )
    if len(planes) == 0:
        raise SettingsError("There is no mask.", "Give at least one.")
    if planes.dtype != torch.bool and not bool(((planes >= 0) & (planes <= 1)).all()):
        raise SettingsError("A mask has weights outside [0,1].", "Scale or clamp it.")
    return planes.contiguous()


def _check_full(planes: Tensor, grid: FrequencyGrid) -> None:
    rows, columns = -torch.arange(grid.height) % grid.height, -torch.arange(grid.width) % grid.width
    mirrored = planes[:, rows.to(planes.device)][:, :, columns.to(planes.device)]
    for plane in planes[(planes != mirrored).flatten(1).any(1)][:1]:
        require_hermitian(plane.cpu().numpy())


def _check_half(planes: Tensor, grid: FrequencyGrid) -> None:
    """In the columns v = 0 and v = W/2 both members of a pair are present, and have to agree."""
    own = [v for v in {0, grid.width // 2} if 2 * v % grid.width == 0]
    rows = (-torch.arange(grid.height) % grid.height).to(planes.device)
    for v in own:
        odd = torch.nonzero(planes[:, :, v] != planes[:, rows, v])
        if len(odd) > 0:
            u = int(odd[0, 1])
            raise SettingsError(
                f"The mask is not Hermitian, so what it leaves of an image is not real: in column {v},"
                f" rows {u} and {-u % grid.height} differ.",
                f"Symmetrise it: for v in {own}: mask[:, v] = np.maximum(mask[:, v],"
                " np.roll(mask[::-1, v], 1))",
            )
