"""See pipeline.py."""

from rlaifv_kedro.pipelines.reward.pipeline import create_pipeline

__all__ = ["create_pipeline"]
