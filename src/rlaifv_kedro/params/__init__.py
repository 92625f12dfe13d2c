"""The parameters of every stage: their types, defaults, allowed ranges and where a default comes from.

Defaults are the method's (shared by every recipe); ``conf/base`` sets what the miniature needs otherwise.
Unknown keys and impossible values are refused before anything runs.
"""

from rlaifv_kedro.params.base import Count, Params
from rlaifv_kedro.params.benchmarks import BenchmarkDataParams, BenchmarksParams, JudgeParams
from rlaifv_kedro.params.compute import ComputeParams, RayParams
from rlaifv_kedro.params.method import (
    CollapseParams,
    DataGenerationParams,
    EvaluationParams,
    FeedbackParams,
    RewardParams,
)
from rlaifv_kedro.params.models import (
    AskedParams,
    BackendParams,
    ModelParams,
    ModelsParams,
    OpenAIParams,
    TransformersParams,
    VLLMParams,
    WeightsParams,
)
from rlaifv_kedro.params.run import (
    RUN_NAMES,
    RUNTIME_ONLY,
    ExportParams,
    LoopParams,
    MiniatureParams,
    Parameters,
    ReportingParams,
    complete_parameters,
    missing_prompts,
    validate_parameters,
)
from rlaifv_kedro.params.serving import ServingParams
from rlaifv_kedro.params.training import LaunchParams, LoraParams, MixSource, TrainingParams

__all__ = [
    "AskedParams",
    "RUNTIME_ONLY",
    "RUN_NAMES",
    "BackendParams",
    "BenchmarkDataParams",
    "BenchmarksParams",
    "CollapseParams",
    "ComputeParams",
    "Count",
    "DataGenerationParams",
    "EvaluationParams",
    "ExportParams",
    "FeedbackParams",
    "JudgeParams",
    "LaunchParams",
    "LoopParams",
    "LoraParams",
    "MiniatureParams",
    "MixSource",
    "ModelParams",
    "ModelsParams",
    "OpenAIParams",
    "Parameters",
    "Params",
    "RayParams",
    "ReportingParams",
    "RewardParams",
    "ServingParams",
    "TrainingParams",
    "TransformersParams",
    "VLLMParams",
    "WeightsParams",
    "complete_parameters",
    "missing_prompts",
    "validate_parameters",
]
