"""The pure core: governance, inventory, reconcile, guard, plan, entity.

Everything here is a function of its arguments. No framework, no network, no file, no clock, no
environment: a lint rule in `pyproject.toml` says so, and what needs any of them belongs in
`adapters` or `defs`.
"""
