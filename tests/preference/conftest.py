"""Pairs about six images, their reference log-probs, and one training on them."""

from training_fixtures import images, model, pairs, reference, run, trained  # noqa: F401  fixtures
