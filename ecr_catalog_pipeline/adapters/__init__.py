"""Thin I/O, one outside system a file. What an answer means is decided in `core`."""
