"""The public names: what users import may not vanish or grow by accident."""

import inspect
import types

import graphnfn as gn

PUBLIC = {
    "GraphMetaNet",
    "GraphNFNError",
    "MetaNetConfig",
    "NetSpec",
    "NeuralGraph",
    "Zoo",
    "act",
    "canonical_signs",
    "canonicalize",
    "fold_norms",
    "load",
    "plot",
    "random_element",
    "save",
    "testing",
}


def test_public_names():
    names = {
        name
        for name, value in vars(gn).items()
        if not name.startswith("_") and (name == "testing" or not isinstance(value, types.ModuleType))
    }
    assert names == PUBLIC


def test_public_names_are_documented():
    for name in PUBLIC:
        assert inspect.getdoc(getattr(gn, name)), name


def test_version_is_the_package_version():
    assert gn.__version__ == "0.1.0"


def test_signatures_that_users_rely_on():
    assert list(inspect.signature(gn.act).parameters) == ["element", "target"]
    assert list(inspect.signature(gn.random_element).parameters)[:3] == ["spec", "decades", "seed"]
    fields = gn.MetaNetConfig.__dataclass_fields__
    assert {"width", "rounds", "out", "layer", "head"} <= set(fields)


def test_converters_and_baselines_names():
    import baselines
    import converters

    assert {"convert", "restore", "ConversionError"} <= set(vars(converters))
    assert {"names", "build"} <= set(vars(baselines))
