"""Audio-text models from transformers: loading, what learns, encoding, loss; tiny ones for tests and two cores."""
