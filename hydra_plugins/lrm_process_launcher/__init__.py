"""Hydra launcher that gives every job of a multirun an operating-system process group of its own.

Only ``launcher`` has a public name, as Hydra executes all that have one, imported already or not.
"""
