"""What a run will need and take, looked at before its first node."""
