"""Damage to the files of public zoos."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from converters.public_zoos.registry import LAYOUTS, configured
from graphnfn.errors import GraphNFNError

Survives = Callable[..., int]


def _damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, the end cut off, or random bytes put in."""
    out, at = bytearray(data), rng.randrange(len(data))
    kind = rng.randrange(3)
    if kind == 0:
        for _ in range(rng.choice((1, 3, 20))):
            out[rng.randrange(len(out))] = rng.randrange(256)
    elif kind == 1:
        del out[at:]
    else:
        out[at:at] = rng.randbytes(rng.choice((1, 7, 50)))
    return bytes(out)


@pytest.fixture
def refusals() -> Survives:
    """How often a layout's reader refuses a damaged file, always with one line of ours."""

    def count(layout: str, path: Path, files: list[Path], times: int, words: tuple[str, ...] = ()) -> int:
        rng, refused = random.Random(0), 0
        for _ in range(times):
            file = rng.choice(files)
            whole = file.read_bytes()
            file.write_bytes(_damaged(whole, rng))
            try:
                configured(LAYOUTS[layout].reader, words).read(path)
            except GraphNFNError as error:
                assert "\n" not in str(error) and len(str(error)) < 1000
                refused += 1
            file.write_bytes(whole)
        return refused

    return count
