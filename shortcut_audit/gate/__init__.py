"""Robustness checks that neither flake nor sleep: a policy, a stored audit, and what comes of them."""
