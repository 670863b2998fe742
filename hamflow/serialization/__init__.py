"""Predictors, flows and configurations in one file: arrays as safetensors, the tree around them as JSON, no pickle."""

from hamflow.serialization.atomic import write_atomically as write_atomically
from hamflow.serialization.file import FORMAT as FORMAT, VERSION as VERSION, load as load, save as save
