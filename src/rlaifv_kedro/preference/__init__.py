"""Preference pairs and what is learnt from them."""
