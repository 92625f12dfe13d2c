"""Lets a torchvision that was built for another torch be imported, in the environment of `make vllm-env` only.

The wheel of an index may be built against another build of torch than the one beside it; then it stops at its
import: "operator torchvision::nms does not exist". vLLM imports torchvision for image processors, and calls
neither operator; that they are declared is enough.
"""

import sys
from importlib.abc import MetaPathFinder

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class Declare(MetaPathFinder):
    """Declares the operators when torchvision is about to be imported, once, and finds nothing itself."""

    def find_spec(self, fullname, path=None, target=None):
        """As Python asks every finder; always None, so that the next one is asked."""
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.library = torch.library.Library("torchvision", "FRAGMENT")
            kept.append(self.library)  # a library that is let go takes its operators with it
            for operator in OPERATORS:
                self.library.define(operator)
        return None


kept = []
sys.meta_path.insert(0, Declare())
