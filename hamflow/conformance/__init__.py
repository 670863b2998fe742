"""The conformance kit: the laws that training and sampling rely on, measured on a flow."""

from .check import check as check
from .report import Finding as Finding, Report as Report
