"""Audio files to clean windows of mono audio, and the damage that is found on the way."""
