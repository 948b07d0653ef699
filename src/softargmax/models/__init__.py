"""Inputs -> logits: networks in PyTorch (`softargmax.models.networks`, which imports torch)."""
