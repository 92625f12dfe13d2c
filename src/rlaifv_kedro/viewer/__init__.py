"""A run as a folder of static pages: every pair, claim, verdict and answer beside its picture."""
