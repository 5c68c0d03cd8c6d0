"""Environments that are asked of any model, and that nothing is trained on: a module each, found by this folder.

Each has `make`, which makes an `Environment` (`k2core/gym/base.py`).
"""
