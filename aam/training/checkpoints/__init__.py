"""Checkpoints: the store of a run, the format of a folder, sharded ones, and the state that resuming needs.

`store` is what others import; no pickle is read but for sharded checkpoints, with a list of what it may name.
"""
