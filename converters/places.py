"""Where tensors lie in a file, and how other values are put there without touching anything else."""

from __future__ import annotations

from dataclasses import dataclass
from io import BufferedRandom, BufferedReader

import torch
from torch import Tensor

from graphnfn.errors import ConversionError


@dataclass(frozen=True)
class Place:
    """A strided view of one stretch of a file.

    Args:
        start: first byte of the stretch; names of one tensor have one stretch.
        length: its bytes.
        dtype: of the entries.
        shape: of the tensor.
        stride: in entries.
        offset: of the first entry, in entries.
    """

    start: int
    length: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @property
    def fits(self) -> bool:
        """Whether every entry lies in the stretch, and no entry is declared many times over."""
        if min(self.shape, default=1) == 0:
            return True
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        inside = min(self.offset, *self.stride, 0) >= 0 and (last + 1) * self.dtype.itemsize <= self.length
        return inside and torch.Size(self.shape).numel() * self.dtype.itemsize <= self.length

    def storage(self, file: BufferedReader) -> Tensor:
        """The whole stretch, as one axis of entries.

        Raises:
            ConversionError: the file ends before.
        """
        stretch = bytearray(self.length)
        file.seek(self.start)
        if file.readinto(stretch) != self.length:
            raise ConversionError("the file ends before its last tensor; save it again")
        return torch.frombuffer(stretch, dtype=self.dtype) if stretch else torch.empty(0, dtype=self.dtype)

    def write(self, file: BufferedRandom, value: Tensor) -> None:
        """Put values into the file; the bytes between them stay."""
        if value.numel():
            stretch = bytearray(self.length)
            file.seek(self.start)
            file.readinto(stretch)
            flat = torch.frombuffer(stretch, dtype=self.dtype)
            flat.as_strided(self.shape, self.stride, self.offset).copy_(value)
            file.seek(self.start)
            file.write(stretch)


def cast(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """Values in another type.

    Raises:
        ConversionError: finite values are not finite in it, or it is an integer type and they are not whole.
    """
    value = value.detach().cpu()
    if value.dtype == dtype:
        return value
    made = value.to(dtype)
    if dtype.is_floating_point or dtype.is_complex:
        wide = made.to(torch.complex128 if dtype.is_complex else torch.float64)
        if torch.equal(torch.isfinite(wide), torch.isfinite(value)):
            return made
        raise ConversionError(
            f"{name!r} holds up to {value.abs().max():.3g}, which is not finite as {dtype}: "
            "canonicalize the graph first"
        )
    if not torch.equal(made.to(value.dtype), value):
        raise ConversionError(f"{name!r} holds values that {dtype} cannot: give the stored type, or leave it out")
    return made
