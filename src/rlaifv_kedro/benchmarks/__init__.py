"""Benchmarks of hallucination: what is asked, how answers are scored and judged."""
