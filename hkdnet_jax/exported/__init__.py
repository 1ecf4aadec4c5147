"""Models as files for other programs: StableHLO, ONNX, and bare weights."""
