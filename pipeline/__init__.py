"""audio-gst: grouped sequential training for audio language models."""

__version__ = "0.1.0"
