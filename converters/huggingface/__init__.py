"""Hugging Face checkpoints: the architecture from ``config.json``, the weights from the files beside it."""

from converters.huggingface.load import load_huggingface as load_huggingface
from converters.huggingface.write import write_huggingface as write_huggingface
