"""See pipeline.py."""

from rlaifv_kedro.pipelines.export.pipeline import create_pipeline

__all__ = ["create_pipeline"]
