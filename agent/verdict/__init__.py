"""Estimates of the true error of hypotheses, in millimetres, from the evidence on them."""

from agent.verdict.error_model import ErrorModel, MeasuredGroup, detection_features, fit_error_model
from agent.verdict.sentences import verdict_sentences
from agent.verdict.stored_models import ERROR_MODEL_FILE, error_model_for, fitted_groups

__all__ = [
    "ERROR_MODEL_FILE",
    "ErrorModel",
    "MeasuredGroup",
    "detection_features",
    "error_model_for",
    "fit_error_model",
    "fitted_groups",
    "verdict_sentences",
]
