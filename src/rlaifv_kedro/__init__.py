"""RLAIF-V as a Kedro project: multimodal LLMs learn from open models' feedback to hallucinate less."""

__version__ = "0.1.0"
