"""The miniature world: drawn scenes with a known truth, and tiny LLaVA models that learn to see them."""
