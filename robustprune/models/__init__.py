"""Build networks by name. Every layer of them can be masked and bounded."""

from robustprune.models.blocks import GlobalAveragePool
from robustprune.models.build import Inputs, ModelInputs, build_model, model_names
from robustprune.models.images import MLP, LeNet
from robustprune.models.inception import InceptionModule, InceptionNet
from robustprune.models.language import EmbeddingClassifier, language_model
from robustprune.models.normalize import Normalize
from robustprune.models.residual import PreActBlock, PreActNet, preact_resnet18, wide_resnet
from robustprune.models.sentences import SentenceTokenizer, sentence_classifier
from robustprune.models.substitution import SynonymSwap, TokenSynonyms, token_synonyms
from robustprune.models.timeseries import FCN, ResidualBlock, ResNet, TinyCNN

__all__ = [
    "FCN",
    "MLP",
    "EmbeddingClassifier",
    "GlobalAveragePool",
    "InceptionModule",
    "InceptionNet",
    "Inputs",
    "LeNet",
    "ModelInputs",
    "Normalize",
    "PreActBlock",
    "PreActNet",
    "ResNet",
    "ResidualBlock",
    "SentenceTokenizer",
    "SynonymSwap",
    "TinyCNN",
    "TokenSynonyms",
    "build_model",
    "language_model",
    "model_names",
    "preact_resnet18",
    "sentence_classifier",
    "token_synonyms",
    "wide_resnet",
]
