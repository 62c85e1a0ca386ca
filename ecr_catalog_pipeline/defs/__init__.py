"""The Dagster shell: assets, checks, jobs, resources. It decides nothing that `core` could."""
