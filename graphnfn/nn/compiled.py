"""The sweep of ``sweep.c``, compiled when first used where there is a C compiler: small networks on a CPU.

PyTorch's own operators cannot come below four or five times the price of running a small network: what a neuron sees
takes ten passes over memory, and launching a hundred operators takes longer than the arithmetic. The compiled sweep
goes through network by network, level by level, in the first cache. It is an accelerator only: without a compiler, on
other devices, for other activations and for large blocks :class:`~graphnfn.nn.tape.Tape` gives the same numbers.
Set ``GRAPHNFN_COMPILED=0`` to do without.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphnfn.nn.responses import Identity, Relu, Tanh, Wave, response_of
from graphnfn.nn.wiring import Level

if TYPE_CHECKING:
    from graphnfn.nn.tape import Tape

LARGEST = 1 << 15
"""Weights of a block beyond which the GEMMs of a BLAS library are better than a loop in the first cache."""
SOURCE = Path(__file__).with_name("sweep.c")
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
REALS = {torch.float32: "float", torch.float64: "double"}
CODES: dict[type, int] = {Identity: 0, Relu: 1, Tanh: 2, Wave: 3}
ROLES = {"input": 0, "hidden": 1, "output": 2}

_Pointer, _Int = ctypes.c_void_p, ctypes.c_int64


class _Level(ctypes.Structure):
    _fields_ = [
        *((name, _Int) for name in ("n", "role", "act", "bars", "bias_stride", "bias_step", "ends_stride", "hold")),
        ("scale", ctypes.c_double),
        *((name, _Pointer) for name in ("bias", "beta", "mix", "ends", "even", "x", "kept", "back", "root", "out")),
        *((name, _Pointer) for name in ("grad_out", "grad_x", "mix_grad", "beta_grad", "bias_grad", "state_grad")),
    ]


class _Link(ctypes.Structure):
    _fields_ = [
        *((name, _Int) for name in ("src", "dst", "taps", "ranks")),
        *((name, _Pointer) for name in ("weight", "mix", "gain", "gain_grad", "mix_grad", "weight_grad")),
    ]


class _Net(ctypes.Structure):
    _fields_ = [
        *((name, _Int) for name in ("width", "levels", "links")),
        ("level", ctypes.POINTER(_Level)),
        ("link", ctypes.POINTER(_Link)),
        *((name, _Pointer) for name in ("answer", "answer_t", "offset", "answer_grad", "offset_grad")),
    ]


class Library:
    """The two functions for one type of numbers."""

    def __init__(self, path: Path) -> None:
        loaded = ctypes.CDLL(str(path))
        self._forward, self._adjoint = loaded.sweep_forward, loaded.sweep_adjoint
        for function in (self._forward, self._adjoint):
            function.argtypes = [ctypes.POINTER(_Net), _Int, _Int]

    def run(self, tape: Tape, out: list[Tensor]) -> None:
        """As :meth:`Tape.run` for all networks."""
        net, alive = _describe(tape)
        for i, one in enumerate(out):
            net.level[i].out = one.data_ptr()
        self._call(self._forward, net, out[0].shape[0], alive)

    def adjoint(self, tape: Tape, even_grads: list[Tensor | None], x_grads: list[Tensor | None]) -> None:
        """As :meth:`Tape.adjoint` for all networks."""
        net, alive = _describe(tape)
        for i, own in enumerate(tape.levels):
            level, state = net.level[i], tape.start_grads[i] if own.role == "input" else None
            if (ends := tape.ends[i]) is not None:
                state = torch.zeros_like(ends)
                tape.end_grads[i].append(state)
            even_grad, x_grad = _dense(even_grads[i]), _dense(x_grads[i])
            alive += [even_grad, x_grad]
            level.grad_out, level.grad_x, level.state_grad = _at(even_grad), _at(x_grad), _at(state)
            level.mix_grad, level.beta_grad = _at(tape.mix_grads[i]), _at(tape.beta_grads[i])
            level.bias_grad = _at(tape.bias_grads[i])
        for k, own in enumerate(tape.links):
            raw, mix = own.learned
            own.raw_grad = torch.empty_like(own.raw, memory_format=torch.contiguous_format) if raw else None
            own.mix_grad = torch.zeros_like(own.mix) if mix and own.mix is not None else None
            link = net.link[k]
            link.gain_grad, link.mix_grad, link.weight_grad = _at(own.gain_grad), _at(own.mix_grad), _at(own.raw_grad)
        net.answer_grad, net.offset_grad = _at(tape.answer_grad), _at(tape.offset_grad)
        self._call(self._adjoint, net, tape.x[0].shape[0], alive)

    @staticmethod
    def _call(function: Any, net: _Net, networks: int, alive: list[Any]) -> None:
        if function(ctypes.byref(net), 0, networks):
            raise MemoryError("no memory for the scratch space of a native sweep")
        del alive  # until here the tensors behind the pointers had to stay


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _dense(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _describe(tape: Tape) -> tuple[_Net, list[Any]]:
    """The structures of ``sweep.c``, and what must live as long as they are used."""
    levels, links, alive = [], [], []
    for i, (level, response) in enumerate(zip(tape.levels, tape.responses, strict=True)):
        bias, ends, beta = level.bias, _dense(tape.ends[i]), _dense(tape.beta[i])
        back = tape.back[i]
        steps = (*bias.stride()[:2], 0 if ends is None or ends.shape[0] == 1 else ends.stride(0))
        steps += (0 if back.shape[0] == 1 else back.stride(0),)
        facts = (bias.shape[1], ROLES[level.role], _code(response), level.signed, *steps, response.scale)
        read = (bias.data_ptr(), _at(beta), tape.mix[i].data_ptr(), _at(ends), tape.even[i].data_ptr())
        made = (tape.x[i].data_ptr(), _at(tape.kept[i]), back.data_ptr(), tape.root[i].data_ptr())
        levels.append(_Level(*facts, *read, *made))
        alive += [ends, beta]
    for link in tape.links:
        raw, mix, gain = link.raw.contiguous(), _dense(link.mix), link.gain.contiguous()
        at = (raw.data_ptr(), _at(mix), gain.data_ptr())
        links.append(_Link(link.src, link.dst, raw.shape[3], gain.shape[0], *at))
        alive += [raw, mix, gain]
    answer, turned = tape.answer.contiguous(), tape.answer.T.contiguous()
    level_array, link_array = (_Level * len(levels))(*levels), (_Link * len(links))(*links)
    alive += [answer, turned, level_array, link_array]
    ends = (answer.data_ptr(), turned.data_ptr(), tape.offset.data_ptr())
    return _Net(tape.offset.shape[0], len(levels), len(links), level_array, link_array, *ends), alive


def _code(response: Any) -> int:
    return CODES[type(response)] + (isinstance(response, Wave) and response.cosine)


def library_for(levels: Sequence[Level], given: Any) -> Library | None:
    """The library that can run a sweep, or None where :class:`Tape` has to.

    Args:
        levels: of the sweep.
        given: its tensors, with ``answer``, ``beta``, ``state``, ``even`` and ``weights``.
    """
    dtype = given.answer.dtype
    if given.answer.device.type != "cpu" or dtype not in REALS:
        return None
    for level, beta, state, even in zip(levels, given.beta, given.state, given.even, strict=True):
        if type(response_of(level)) not in CODES or not isinstance(level.signed, bool):
            return None
        if (beta is not None and beta.dim() > 1) or {level.bias.dtype, even.dtype} != {dtype}:
            return None
        if state is not None and state.dtype != dtype:
            return None
    for weight in given.weights:
        if weight.dtype != dtype or weight.shape[1] * weight.shape[2] * weight.shape[3] > LARGEST:
            return None
    return library(dtype)


@lru_cache(maxsize=4)
def library(dtype: torch.dtype) -> Library | None:
    """The compiled sweep for a type of numbers; None where it is switched off or there is no working compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if os.environ.get("GRAPHNFN_COMPILED") == "0" or compiler is None or platform.system() == "Windows":
        return None
    wide = ["-mprefer-vector-width=512"] if platform.machine().lower() in ("x86_64", "amd64") else []
    command = [
        compiler,
        *FLAGS,
        *wide,
        f"-DREAL={REALS[dtype]}",
        *(["-DWIDE"] if dtype == torch.float64 else []),
        str(SOURCE),
    ]
    facts = Path("/proc/cpuinfo")
    flags = next((x for x in facts.read_text().splitlines() if x.startswith("flags")), "") if facts.exists() else ""
    key = hashlib.sha256("\n".join([*command, SOURCE.read_text(), platform.platform(), flags]).encode()).hexdigest()
    for folder in (Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "graphnfn", None):
        try:
            place = Path(tempfile.mkdtemp(prefix="graphnfn-")) if folder is None else folder
            return Library(_built(command, place / f"sweep-{key[:24]}.so"))
        except (OSError, subprocess.SubprocessError):
            continue  # a folder that cannot be written to, or a compiler that does not know the flags
    return None


def _built(command: list[str], path: Path) -> Path:
    """The shared library; it appears whole or not at all, so that processes may race."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            fresh = Path(folder) / path.name
            subprocess.run([*command, "-o", str(fresh), "-lm"], check=True, capture_output=True, timeout=120)
            fresh.replace(path)
    return path
