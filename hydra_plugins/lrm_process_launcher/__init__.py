"""Hydra launcher that gives every job of a multirun an operating-system process group of its own.

Only ``launcher`` has a public name: Hydra's plugin scan executes every module of this package whose
name has no leading underscore, also when it is imported already, and would leave two copies of its
classes.
"""
