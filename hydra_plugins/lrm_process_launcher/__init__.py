"""Hydra launcher that gives every job of a multirun an operating-system process group of its own.

Hydra's plugin scan executes each module here that has a public name, even one imported already, and
two copies of a class don't know each other: only ``launcher`` has one.
"""
