"""Which tensor of the file belongs to which slot of which layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from converters.archive import MAX_BYTES
from converters.keras.files import Opened
from converters.keras.hdf5 import Index, Stored
from converters.keras.layer import Layer, Slot
from converters.keras.network import Network
from graphnfn.errors import ConversionError


@dataclass(frozen=True)
class Place:
    """A slot of a layer, and where the ``.keras`` format stores it."""

    layer: Layer
    slot: Slot
    trained: bool
    path: str


def places(layer: Layer, path: str = "", frozen: bool = False) -> Iterator[Place]:
    """All slots of a layer and of the layers inside, in the order of Keras."""
    frozen = frozen or layer.config.values.get("trainable") is False
    counts: dict[str, int] = {}
    for slot in layer.slots:
        number = counts[slot.part] = counts.get(slot.part, -1) + 1
        parts = [p for p in (path, slot.part, "vars", str(number)) if p]
        yield Place(layer, slot, slot.trained and not frozen, "/".join(parts))
    for name, inner in layer.inner():
        yield from places(inner, f"{path}/{name}" if path else name, frozen)


def fill(network: Network, file: Opened) -> dict[str, str]:
    """Give every slot its tensor, and return the names: state-dict name -> name in the file.

    Raises:
        ConversionError: the file holds other tensors than the configuration needs.
    """
    found = list(_archived(network, file) if file.archive else _legacy(network, file.index))
    total = sum(stored.nbytes for _, stored in found)
    if total > MAX_BYTES:
        raise ConversionError(f"the tensors take {total} bytes; expected at most {MAX_BYTES}")
    names: dict[tuple[int, str], str] = {}
    for place, stored in found:
        place.layer.hold(place.slot, stored.read())
        names[id(place.layer), place.slot.name] = stored.path
    return {
        f"{prefix}.{slot.name}": names[id(part), slot.name]
        for prefix, part in network.named_modules()
        if isinstance(part, Layer)
        for slot in part.slots
    }


def _archived(network: Network, file: Opened) -> Iterator[tuple[Place, Stored]]:
    for place in places(network):
        yield place, file.index.stored(place.path)


def _legacy(network: Network, index: Index) -> Iterator[tuple[Place, Stored]]:
    """Every top layer has a group with a list of its weights, those that are trained first."""
    for name in network.keys:
        wanted = sorted(places(network.part(name)), key=lambda place: not place.trained)
        group = f"model_weights/{name}"
        stored = index.weight_names.get(group, [])
        if len(stored) != len(wanted):
            got, expected = stored[:6], [place.slot.name for place in wanted][:6]
            raise ConversionError(
                f"layer {name!r}: got {len(stored)} weights {got}, expected {len(wanted)}: {expected}; "
                "save the whole model again"
            )
        for place, weight in zip(wanted, stored, strict=True):
            yield place, index.stored(f"{group}/{weight}")
