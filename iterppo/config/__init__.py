"""Configuration: one frozen class of settings per stage, without anything heavy."""

from iterppo.config.base import Settings, StageConfig, parse_duration
from iterppo.config.evaluation import (
    ClassifierRule,
    EvaluateConfig,
    GuardrailRule,
    GuardrailSettings,
    LengthRule,
    QuestionRule,
)
from iterppo.config.ingest import (
    ByClassifier,
    ByConversation,
    ByEvents,
    ByMarks,
    ByPattern,
    EventMapping,
    IngestConfig,
    Outcomes,
)
from iterppo.config.policy import ExportConfig, InitConfig, PPOConfig, PromptsConfig, RolloutConfig
from iterppo.config.q_function import (
    OFF_POLICY,
    ActionsConfig,
    CreditConfig,
    FitQConfig,
    ReturnsConfig,
)

__all__ = [
    "OFF_POLICY",
    "ActionsConfig",
    "ByClassifier",
    "ByConversation",
    "ByEvents",
    "ByMarks",
    "ByPattern",
    "ClassifierRule",
    "CreditConfig",
    "EvaluateConfig",
    "EventMapping",
    "ExportConfig",
    "FitQConfig",
    "GuardrailRule",
    "GuardrailSettings",
    "IngestConfig",
    "InitConfig",
    "LengthRule",
    "Outcomes",
    "PPOConfig",
    "PromptsConfig",
    "QuestionRule",
    "ReturnsConfig",
    "RolloutConfig",
    "Settings",
    "StageConfig",
    "parse_duration",
]
