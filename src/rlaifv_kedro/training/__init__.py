"""Preference pairs to checkpoints: the trainer, in one process or many."""
