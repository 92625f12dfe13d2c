"""See pipeline.py."""

from rlaifv_kedro.pipelines.data_generation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
