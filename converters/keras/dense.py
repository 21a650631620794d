"""Dense layers, embeddings, normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from converters.keras.activations import activation
from converters.keras.config import Config
from converters.keras.layer import Layer, Slot, channels_back, channels_to_second, layer
from graphnfn.errors import ConversionError


def bias_slot(config: Config) -> list[Slot]:
    """The bias, where the layer uses one."""
    return [Slot("bias")] if config.flag("use_bias", True) else []


@layer("Dense")
class Dense(Layer):
    """activation(x kernel + bias), kernel [in, out], along the last axis."""

    kernel: Tensor

    keeps_mask = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        config.refuse("lora_rank", None)
        config.refuse("quantization_config", None)
        self.slots = [Slot("kernel"), *bias_slot(config)]
        self.activation = activation(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(F.linear(x, self.kernel.t(), self.get("bias")))


@layer("Embedding")
class Embedding(Layer):
    """Row x of embeddings [in, out]; with ``mask_zero`` index 0 is no step."""

    embeddings: Tensor

    reads_indices = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        config.refuse("lora_rank", None)
        self.slots = [Slot("embeddings")]
        self.vocabulary = config.size("input_dim")
        self.mask_zero = config.flag("mask_zero", False)

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x.long(), self.embeddings)

    def next_mask(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        return x != 0 if self.mask_zero else None


@layer("BatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2", "SyncBatchNormalization")
class BatchNormalization(Layer):
    """gamma (x - mean) / sqrt(var + epsilon) + beta along one axis."""

    moving_mean: Tensor
    moving_variance: Tensor

    keeps_mask = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        config.refuse("renorm", False)
        axes = config.integers("axis", [-1])
        if len(axes) != 1:
            raise config.wrong("axis", "one axis")
        self.axis, self.epsilon = axes[0], config.number("epsilon", 1e-3)
        self.slots = [Slot("gamma")] if config.flag("scale", True) else []
        self.slots += [Slot("beta")] if config.flag("center", True) else []
        self.slots += [Slot("moving_mean", trained=False), Slot("moving_variance", trained=False)]

    def forward(self, x: Tensor) -> Tensor:
        scale, shift, axis = self.get("gamma"), self.get("beta"), self.axis % x.dim()
        order = [0, axis, *(a for a in range(1, x.dim()) if a != axis)]
        moved = x if axis == 1 else x.permute(order)
        out = F.batch_norm(moved, self.moving_mean, self.moving_variance, scale, shift, eps=self.epsilon)
        return out if axis == 1 else out.permute([order.index(a) for a in range(x.dim())])


@layer("LayerNormalization")
class LayerNormalization(Layer):
    """gamma (x - mean) / sqrt(var + epsilon) + beta, statistics over the axes of one example."""

    keeps_mask = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        config.refuse("rms_scaling", False)
        self.axes, self.epsilon = config.integers("axis", [-1]), config.number("epsilon", 1e-3)
        self.slots = [Slot("gamma")] if config.flag("scale", True) else []
        self.slots += [Slot("beta")] if config.flag("center", True) else []

    def forward(self, x: Tensor) -> Tensor:
        axes = sorted(a % x.dim() for a in self.axes)
        if axes != list(range(x.dim() - len(axes), x.dim())):
            raise ConversionError(f"layer {self.config.name!r}: normalises axes {self.axes}; expected the last ones")
        return F.layer_norm(x, x.shape[-len(axes) :], self.get("gamma"), self.get("beta"), self.epsilon)


@layer("RMSNormalization")
class RMSNormalization(Layer):
    """scale x / sqrt(mean(x^2) + epsilon) along the last axis."""

    scale: Tensor

    keeps_mask = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        config.refuse("axis", -1, [-1])
        self.epsilon = config.number("epsilon", 1e-6)
        self.slots = [Slot("scale")]

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.scale, self.epsilon)


@layer("GroupNormalization")
class GroupNormalization(Layer):
    """Layer norm over positions and the channels of one of ``groups`` groups; -1 is one channel a group."""

    keeps_mask = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        config.refuse("axis", -1, [-1])
        self.groups, self.epsilon = config.integer("groups", 32), config.number("epsilon", 1e-3)
        self.slots = [Slot("gamma")] if config.flag("scale", True) else []
        self.slots += [Slot("beta")] if config.flag("center", True) else []

    def forward(self, x: Tensor) -> Tensor:
        groups = x.shape[-1] if self.groups == -1 else self.groups
        moved = channels_to_second(x, self.config)
        out = F.group_norm(moved, groups, self.get("gamma"), self.get("beta"), self.epsilon)
        return channels_back(out, self.config)


@layer("Normalization")
class Normalization(Layer):
    """(x - mean) / max(sqrt(variance), 1e-7): the statistics of the training inputs, with their count."""

    mean: Tensor
    variance: Tensor

    keeps_mask = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        config.refuse("invert", False)
        config.refuse("mean", None)
        config.refuse("axis", -1, [-1])
        self.slots = [Slot(name, trained=False) for name in ("mean", "variance", "count")]

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / torch.sqrt(self.variance).clamp(min=1e-7)
