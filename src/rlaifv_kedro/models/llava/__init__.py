"""LLaVA-1.5 in the layout of its original release."""
