"""See pipeline.py."""

from rlaifv_kedro.pipelines.benchmark_data.pipeline import create_pipeline

__all__ = ["create_pipeline"]
