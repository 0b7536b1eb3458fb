"""SALMONN (arXiv 2310.13289) from parts of transformers; importing this room makes the Auto classes know it."""

from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor

from pipeline.models.salmonn.beats import BeatsModel
from pipeline.models.salmonn.config import BeatsConfig, SalmonnConfig
from pipeline.models.salmonn.modeling import SalmonnForConditionalGeneration, SalmonnModel
from pipeline.models.salmonn.processor import SalmonnProcessor, load_salmonn_processor

__all__ = [
    "BeatsConfig",
    "BeatsModel",
    "SalmonnConfig",
    "SalmonnForConditionalGeneration",
    "SalmonnProcessor",
    "load_salmonn_processor",
]

AutoConfig.register(BeatsConfig.model_type, BeatsConfig)
AutoConfig.register(SalmonnConfig.model_type, SalmonnConfig)
AutoModel.register(BeatsConfig, BeatsModel)
AutoModel.register(SalmonnConfig, SalmonnModel)
AutoModelForMultimodalLM.register(SalmonnConfig, SalmonnForConditionalGeneration)
AutoProcessor.register(SalmonnConfig, SalmonnProcessor)
