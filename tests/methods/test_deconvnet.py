"""Deconvnet against an explicit walk: unpool with switches, rectify, flipped filters; and against Captum."""

import warnings

import numpy as np
import pytest
import torch
from captum.attr import Deconvolution
from torch import nn

from convscope.errors import RuleError
from convscope.instrument.address import parse_address
from convscope.instrument.target import Target
from convscope.methods.deconvnet import Deconvnet
from convscope.models.classifier import Classifier
from tests.nets import BOOK, FORMS, MEAN, STD, Skip, classifier_of, photos
from tests.oracles import Walk, differs, near, normalised
