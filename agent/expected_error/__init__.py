"""Estimates of the true error of hypotheses, in millimetres, from the evidence on them."""

from agent.expected_error.error_model import ErrorModel, MeasuredGroup, detection_features, fit_error_model
from agent.expected_error.sentences import verdict_sentences
from agent.expected_error.stored_models import ERROR_MODEL_FILE, error_model_for, fitted_groups

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
