"""export: preference_pairs, or training_pairs -> a folder for each tool.

One of them alone: ``--nodes iteration_1.export.export_trl``.
"""

from kedro.pipeline import Pipeline, node

from rlaifv_kedro.datasets.export_formats import FORMATS
from rlaifv_kedro.params import Parameters
from rlaifv_kedro.pipelines.export.nodes import PublishedRows


def create_pipeline(parameters: Parameters) -> Pipeline:
    """A folder for each tool; ``export.source`` says what is exported."""
    source = parameters.export.source
    return Pipeline(
        [
            node(PublishedRows, inputs=source, outputs=f"export_{name}", name=f"export_{name}")
            for name in FORMATS
        ]
    )
