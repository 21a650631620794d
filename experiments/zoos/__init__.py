"""Builders of zoos: many networks trained at once, resumable, each network reproducible on its own."""
