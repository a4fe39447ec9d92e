"""ONNX Runtime, which the host's part of a model runs on: the one place that imports it.

Its official packages report to their maker: on import they write an identifier to the user's cache
directory and to the temporary one, and send what they are used for. Systol runs where it is started
and tells nobody, so this is turned off before the import. A user who sets the variable otherwise is
obeyed.

Ref: ONNX Runtime, docs/Privacy.md, "Disabling Telemetry": the variable counts before the
library's initialization alone, and then nothing is created, written or sent.
"""

import os

TELEMETRY_OFF = "ORT_DISABLE_TELEMETRY"
os.environ.setdefault(TELEMETRY_OFF, "1")

import onnxruntime  # noqa: E402

__all__ = ["TELEMETRY_OFF", "onnxruntime"]
