"""See pipeline.py."""

from rlaifv_kedro.pipelines.benchmarks.pipeline import create_pipeline

__all__ = ["create_pipeline"]
