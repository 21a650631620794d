"""Converts files one by one, within limits of time and memory; one line of JSON per file on stdout.

Run by test_fuzz.py in a process of its own: a crash, a hang or an executed payload shows in what is missing.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import time
import warnings

import torch

from converters import ConversionError, convert

SECONDS, BYTES = 10, 6 << 30


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _late)
    for line in sys.stdin:
        path = line.rstrip("\n")
        start = time.perf_counter()
        signal.alarm(SECONDS)
        try:
            graph = convert(path, activation=None if path.endswith((".onnx", ".h5", ".keras")) else "relu")
            word = "graph" if graph.num_nodes > 0 else "empty"
        except ConversionError as error:
            word = "refused" if str(error) else "refused without a word"
        except BaseException as error:  # whatever it is, it is what the test looks for
            word = f"{type(error).__name__}: {error}"[:300]
        finally:
            signal.alarm(0)
        sys.stdout.write(json.dumps({"path": path, "word": word, "seconds": time.perf_counter() - start}) + "\n")
        sys.stdout.flush()


def _late(*_: object) -> None:
    raise TimeoutError(f"took more than {SECONDS} s")


if __name__ == "__main__":
    main()
