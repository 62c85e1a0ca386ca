"""Dagster's history of our runs, kept small."""
