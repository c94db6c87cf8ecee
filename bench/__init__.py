"""Benchmarks: ``python -m bench`` (``make bench``) measures, prints a table and writes bench/results.json."""
