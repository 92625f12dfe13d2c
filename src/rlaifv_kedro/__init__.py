"""RLAIF-V as a Kedro project: multimodal LLMs learn from open models' feedback to hallucinate less."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlaifv_kedro.models.chat import RLAIFVChat

__all__ = ["RLAIFVChat"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports the front when it is asked for: every command imports this package."""
    if name != "RLAIFVChat":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rlaifv_kedro.models.chat import RLAIFVChat

    return RLAIFVChat
