"""What metanetworks cost in time and memory: ``graphnfn bench``."""
