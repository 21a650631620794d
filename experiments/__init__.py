"""Training, comparing and reporting metanetworks; the command line lives in :mod:`experiments.cli`."""
