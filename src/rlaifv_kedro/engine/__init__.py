"""Long steps, chunk by chunk."""
