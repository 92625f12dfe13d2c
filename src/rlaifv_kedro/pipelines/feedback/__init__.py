"""See pipeline.py."""

from rlaifv_kedro.pipelines.feedback.pipeline import create_pipeline

__all__ = ["create_pipeline"]
