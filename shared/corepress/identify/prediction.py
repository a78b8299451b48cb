"""Epsilon or v-prediction: whose word counts, and what to say when there is none."""

from __future__ import annotations

from corepress.domain.checkpoint import IdentifyOptions, PredictionType, Problem
from corepress.domain.errors import AmbiguousPredictionType, InvalidRequest
from corepress.identify.families.family import Family


def decide_prediction_type(
    family: Family, options: IdentifyOptions, *evidence: PredictionType | None
) -> PredictionType:
    """The user's word, else the first evidence, else what the family always is.

    Raises:
        InvalidRequest: the user's word can't be, as the family predicts a flow.
    """
    if family.prediction_type is PredictionType.FLOW:
        if options.prediction_type != "auto":
            raise InvalidRequest(
                f"the family {family.name} always predicts a flow, not {options.prediction_type}",
                hint="Leave out --prediction-type.",
            )
        return PredictionType.FLOW
    if options.prediction_type != "auto":
        return PredictionType(options.prediction_type)
    return next((found for found in evidence if found is not None), family.prediction_type)


def ambiguity(prediction_type: PredictionType) -> tuple[Problem, ...]:
    """The problem of an ambiguous prediction type, which normalizing refuses."""
    if prediction_type is not PredictionType.AMBIGUOUS:
        return ()
    return (
        Problem(
            AmbiguousPredictionType.code,
            "SD 2 files for 512 pixels (epsilon) and 768 pixels (v-prediction) hold the same "
            "tensors: these weights don't tell which one it is",
            hint="Pass --prediction-type epsilon or v_prediction, or --original-config FILE.",
        ),
    )
