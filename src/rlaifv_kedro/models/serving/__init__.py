"""Servers of vLLM: started for a checkpoint, watched, started again, ended whatever happens to the run."""
