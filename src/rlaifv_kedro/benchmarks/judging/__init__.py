"""LLMs as judges: how they are asked, what they replied, what they cost."""
