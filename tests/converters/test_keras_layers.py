"""Every Keras layer computes what Keras computes, from both of its formats; Keras runs on PyTorch, not TensorFlow."""

from __future__ import annotations

import functools
import os
import warnings

import numpy as np
import pytest
import torch

from converters.keras import load_keras, write_keras
from converters.keras.activations import ACTIVATIONS
from graphnfn.errors import ConversionError

os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras", reason="needs Keras, the reference for its own files: pip install keras")
L = keras.layers


def parallel(shape, layers):
    """A model that applies many layers to one input."""
    x = keras.Input(shape)
    return keras.Model(x, [layer(x) for layer in layers])


def chain(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


WINDOWS = [
    (p, k, s, d) for p in ("same", "valid") for k, s, d in ((3, 1, 1), (3, 2, 1), (2, 2, 1), (4, 1, 1), (3, 1, 2))
]
PLAIN = [(p, k, s) for p, k, s, d in WINDOWS if d == 1] + [("same", 5, 3), ("same", 2, 3), ("valid", 2, 3)]


def convolutions(kind, shape, **settings):
    return parallel(shape, [kind(6, k, strides=s, dilation_rate=d, padding=p, **settings) for p, k, s, d in WINDOWS])


def windows(kind, shape, *args, cases=PLAIN, **settings):
    return parallel(shape, [kind(*args, k, strides=s, padding=p, **settings) for p, k, s in cases])


def on_images():
    return [
        L.PReLU(shared_axes=[1, 2]),
        L.PReLU(),
        L.BatchNormalization(),
        L.BatchNormalization(axis=1, scale=False),
        L.LayerNormalization(axis=[1, 2, 3]),
        L.GroupNormalization(2),
        L.GroupNormalization(-1),
        L.GlobalAveragePooling2D(),
        L.GlobalMaxPooling2D(keepdims=True),
        L.ZeroPadding2D(((1, 2), (0, 3))),
        L.Cropping2D(((1, 2), (0, 1))),
        L.UpSampling2D((2, 3)),
        L.UpSampling2D(2, interpolation="bilinear"),
        L.Permute((3, 1, 2)),
        L.Reshape((-1, 2)),
        L.Flatten(),
        L.SpatialDropout2D(0.3),
        L.Softmax(axis=1),
    ]


def on_sequences():
    return [
        L.GlobalAveragePooling1D(),
        L.GlobalMaxPooling1D(),
        L.ZeroPadding1D((1, 2)),
        L.Cropping1D((1, 2)),
        L.UpSampling1D(3),
        L.TimeDistributed(L.Dense(3, "relu")),
        L.Conv1D(3, 3, padding="causal", dilation_rate=2),
    ]


def on_vectors():
    return [
        L.Dense(3, "softmax", use_bias=False),
        L.ReLU(6.0),
        L.ReLU(negative_slope=0.2),
        L.ReLU(3.0, 0.1, 0.5),
        L.LeakyReLU(0.3),
        L.PReLU(),
        L.ELU(0.7),
        L.LayerNormalization(),
        L.RMSNormalization(),
        L.UnitNormalization(),
        L.Normalization(),
        L.Rescaling(2.0, 1.0),
        L.GaussianNoise(0.5),
        L.RepeatVector(3),
        *(L.Activation(name) for name in ACTIVATIONS),
    ]


def recurrent():
    kinds = (L.SimpleRNN, L.LSTM, L.GRU)
    settings = ({"return_sequences": True, "go_backwards": True}, {"use_bias": False})
    layers = [kind(3, **s) for kind in kinds for s in settings]
    layers += [L.Bidirectional(kind(3, return_sequences=True)) for kind in kinds]
    return parallel((4, 2), [*layers, L.Bidirectional(L.GRU(3), "mul"), L.GRU(3, reset_after=False)])


def masked(kind):
    return chain((5,), L.Embedding(4, 3, mask_zero=True), L.Bidirectional(kind(3, return_sequences=True)), kind(2))


def merged():
    a, b = keras.Input((6,)), keras.Input((6,))
    kinds = (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum, L.Concatenate)
    joined = L.Concatenate()([kind()([L.Dense(6)(a), b]) for kind in kinds])
    return keras.Model([a, b], [joined, L.Dot(axes=1)([a, b]), keras.ops.relu(a * 2.0 + b) - 1.0])


def dots():
    a, b = keras.Input((5, 4)), keras.Input((3, 4))
    return keras.Model([a, b], [L.Dot(axes=2)([a, b]), L.Dot(axes=(2, 2), normalize=True)([a, b])])


def nested(frozen=False):
    """One inner model used twice, one with a frozen layer in front of others; H5 stores frozen weights last."""
    x = keras.Input((6,))
    twice = keras.Model(x, L.BatchNormalization()(L.Dense(4, "relu")(x)))
    inner = chain((6,), L.BatchNormalization(), L.Dense(4), L.Dense(4))
    inner.layers[1].trainable = False
    inner.trainable = not frozen
    a, b = keras.Input((6,)), keras.Input((6,))
    return keras.Model([a, b], L.Concatenate()([twice(a), twice(b), inner(a)]))


def attention():
    x = keras.Input((5, 8))
    y = L.LayerNormalization()(L.Add()([L.MultiHeadAttention(2, 3)(x, x), x]))
    z = L.MultiHeadAttention(2, 3, value_dim=5)(y, x, use_causal_mask=True)
    return keras.Model(x, L.Attention()([z, x]))


def translation():
    a, b = keras.Input((None, 4)), keras.Input((None, 3))
    _, h, c = L.LSTM(5, return_state=True)(a)
    return keras.Model([a, b], L.Dense(3)(L.LSTM(5, return_sequences=True)(b, initial_state=[h, c])))


MODELS = {
    "dense": lambda: chain((5,), L.Dense(4, "relu"), L.Dropout(0.5), L.Dense(3, "softmax")),
    "conv1d": lambda: convolutions(L.Conv1D, (9, 4)),
    "conv2d": lambda: convolutions(L.Conv2D, (9, 8, 4), groups=2, activation="tanh"),
    "conv3d": lambda: convolutions(L.Conv3D, (7, 8, 6, 2)),
    "separable": lambda: windows(L.SeparableConv2D, (9, 8, 4), 5, depth_multiplier=2),
    "depthwise": lambda: windows(L.DepthwiseConv2D, (9, 8, 4), depth_multiplier=3, activation="relu"),
    "transposed 1d": lambda: windows(L.Conv1DTranspose, (5, 3), 4),
    "transposed 2d": lambda: windows(L.Conv2DTranspose, (5, 4, 3), 4),
    "transposed, output padding": lambda: windows(
        L.Conv2DTranspose, (5, 4, 3), 4, cases=[("same", 3, 2), ("valid", 3, 2), ("same", 2, 3)], output_padding=1
    ),
    "max": lambda: windows(L.MaxPooling2D, (9, 8, 4)),
    "average": lambda: windows(L.AveragePooling2D, (9, 8, 4), cases=[c for c in PLAIN if c[0] == "valid"]),
    "images": lambda: parallel((6, 5, 4), on_images()),
    "sequences": lambda: parallel((6, 4), on_sequences()),
    "vectors": lambda: parallel((6,), on_vectors()),
    "open sizes": lambda: chain(
        (None, None, 3), L.Conv2D(4, 5), L.MaxPooling2D(), L.Conv2D(4, 5), L.GlobalMaxPooling2D()
    ),
    "merged": merged,
    "dots": dots,
    "nested": nested,
    "frozen": lambda: nested(frozen=True),
    "attention": attention,
    "recurrent": recurrent,
    "masked lstm": lambda: masked(L.LSTM),
    "masked gru": lambda: masked(L.GRU),
    "masking": lambda: chain((4, 3), L.Masking(0.0), L.SimpleRNN(3)),
    "mean behind a mask": lambda: chain((None,), L.Embedding(4, 3, mask_zero=True), L.GlobalAveragePooling1D()),
    "translation": translation,
}


@functools.cache
def model_of(case):
    """The model with random weights."""
    keras.utils.clear_session(free_memory=False)
    model, rng = MODELS[case](), np.random.default_rng(0)
    for variable in model.weights:
        value = rng.uniform(0.3, 1.5, variable.shape) if "var" in variable.path.split("/")[-1] else None
        if variable.dtype.startswith("float"):
            variable.assign(rng.normal(size=variable.shape) * 0.5 if value is None else value)
    return model


def saved(case, kind, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 3 prefers its new format
        model_of(case).save(folder / f"m.{kind}")
    return folder / f"m.{kind}"


def outputs(result):
    return [r.detach() for r in result] if isinstance(result, list | tuple) else [result.detach()]


def error(got, expected):
    """Largest relative difference over all outputs."""
    pairs = list(zip(outputs(got), outputs(expected), strict=True))
    assert all(a.shape == b.shape for a, b in pairs)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("kind", ["keras", "h5"])
@pytest.mark.parametrize("case", MODELS)
def test_same_outputs_as_keras(case, kind, tmp_path):
    loaded = load_keras(saved(case, kind, tmp_path))
    inputs = list(loaded.inputs)
    expected = model_of(case)(inputs if len(inputs) > 1 else inputs[0], training=False)
    assert error(loaded.module(*inputs), expected) <= 1e-5
    assert set(loaded.names) == set(loaded.module.state_dict())


@pytest.mark.parametrize("case", ["conv2d", "transposed 2d", "images", "merged", "nested", "attention", "translation"])
def test_exports_and_runs_in_double_precision(case, tmp_path):
    loaded = load_keras(saved(case, "keras", tmp_path))
    expected = loaded.module(*loaded.inputs)
    exported = torch.export.export(loaded.module, loaded.inputs, strict=False).module()
    assert error(exported(*loaded.inputs), expected) <= 1e-6
    double = loaded.module.double()(*(x.double() if x.is_floating_point() else x for x in loaded.inputs))
    assert all(x.dtype == torch.float64 for x in outputs(double))
    assert error(double, expected) <= 1e-5


@pytest.mark.parametrize("kind", ["keras", "h5"])
@pytest.mark.parametrize("case", ["dense", "nested", "frozen", "recurrent"])
def test_keras_reads_what_we_write(case, kind, tmp_path):
    """Weights that we scale arrive in Keras, under the right names; what we do not touch stays to the bit."""
    path = saved(case, kind, tmp_path)
    loaded = load_keras(path)
    state = loaded.module.state_dict()
    write_keras(path, {loaded.names[name]: value for name, value in state.items()}, tmp_path / f"same.{kind}")
    assert (tmp_path / f"same.{kind}").read_bytes() == path.read_bytes()
    state = {name: value * 0.9 for name, value in state.items()}
    write_keras(path, {loaded.names[name]: value for name, value in state.items()}, tmp_path / f"moved.{kind}")
    loaded.module.load_state_dict(state)
    inputs = list(loaded.inputs)
    read = keras.models.load_model(tmp_path / f"moved.{kind}", compile=False)
    expected = read(inputs if len(inputs) > 1 else inputs[0], training=False)
    assert error(loaded.module(*inputs), expected) <= 1e-5


def test_the_comparison_notices_a_wrong_weight(tmp_path):
    """Negative control."""
    loaded = load_keras(saved("dense", "keras", tmp_path))
    expected = model_of("dense")(loaded.inputs[0], training=False)
    next(loaded.module.parameters()).mul_(1.01)
    assert error(loaded.module(*loaded.inputs), expected) > 1e-4


def test_code_is_refused(tmp_path):
    chain((3,), L.Lambda(lambda x: x + 1)).save(tmp_path / "lambda.keras")
    with pytest.raises(ConversionError, match="no rule for class 'Lambda'"):
        load_keras(tmp_path / "lambda.keras")
