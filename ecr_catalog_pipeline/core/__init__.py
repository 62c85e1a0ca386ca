"""The pure core: governance, inventory, reconcile, guard, plan, entity, parity, alerts.

Everything here is a function of its arguments. No framework, no network, no file, no clock, no
environment: the lint rules in `ruff.toml` here say so, and what needs any of them belongs in
`adapters` or `defs`.
"""
