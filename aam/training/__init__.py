"""Losses, objectives, distribution, checkpoints and the trainer."""
