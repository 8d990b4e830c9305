"""A PyTorch model as an ONNX file, for programs that know nothing of Wardround.

The file is whole: it takes `features` as the task makes them, shape (examples, n_features), float32, missing ones as NaN, scales
them with the model's own buffers, and gives `probabilities`, shape (examples, n_classes). Needs `wardround[torch,onnx]`.
"""

from __future__ import annotations

import io
import warnings

import torch
from torch import nn

from wardround.errors import LearnError, StudyError
from wardround.learn.learners import make_learner
from wardround.learn.learners.torch_learner import TorchLearner
from wardround.learn.models import Parameters
from wardround.learn.study import LearnerSettings


def export_onnx(settings: LearnerSettings, n_features: int, n_classes: int, parameters: Parameters) -> bytes:
    """The model of a study with `learner.kind = "torch"`; control variates must be out of it (models.without_controls).

    Raises:
        StudyError: the learner is another, or a library is not installed here.
        LearnError: the parameters do not fit, or PyTorch cannot write the module as ONNX.
    """
    learner = make_learner(settings, n_features, n_classes)
    if not isinstance(learner, TorchLearner):
        raise StudyError(f"a model of kind `{settings.kind}` has no ONNX form here", remedy="export it as safetensors")
    whole = _Whole(learner.module(parameters), parameters, settings.clip).eval()
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's exporter warns of its own insides
            program = torch.onnx.export(
                whole,
                (torch.zeros(2, n_features),),
                input_names=["features"],
                output_names=["probabilities"],
                dynamic_shapes={"features": {0: torch.export.Dim("examples")}},
                dynamo=True,
                verbose=False,
            )
        assert program is not None  # noqa: S101 - it is one with dynamo
        program.save(buffer)
    except ImportError as exc:
        raise StudyError(f"{exc.name} is not installed here", remedy="pip install 'wardround[torch,onnx]'") from exc
    except Exception as exc:
        reason = str(exc).strip().splitlines()[:1]
        raise LearnError(
            f"PyTorch cannot write this module as ONNX: {''.join(reason)}", remedy="export it as safetensors"
        ) from exc
    return buffer.getvalue()


class _Whole(nn.Module):  # type: ignore[misc]  # to mypy torch is untyped
    """Scaling, the user's module and softmax in one."""

    def __init__(self, module: nn.Module, parameters: Parameters, clip: float) -> None:
        super().__init__()
        self.module, self.clip = module, clip
        self.dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
        self.register_buffer("mean", torch.from_numpy(parameters["scale.mean"].copy()))
        self.register_buffer("std", torch.from_numpy(parameters["scale.std"].copy()))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = torch.nan_to_num((features - self.mean) / self.std, nan=0.0, posinf=0.0, neginf=0.0).clamp(-self.clip, self.clip)
        return torch.softmax(self.module(x.to(self.dtype)).float(), dim=1)
