"""Granite-Speech's features without torchaudio, which its own extractor in `transformers` needs for one spectrogram."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoProcessor, AutoTokenizer, BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank
from transformers.models.granite_speech import feature_extraction_granite_speech as stock
from transformers.models.granite_speech.processing_granite_speech import GraniteSpeechProcessor
from transformers.utils import is_torchaudio_available


class GraniteSpeechFeatureExtractor(stock.GraniteSpeechFeatureExtractor):
    """The extractor of `transformers` under its own name, so that saved folders name it; only the spectrogram is ours.

    Power of a short-time Fourier transform with a Hann window and centred frames, mirrored at both ends; times
    triangular filters on the HTK mel scale without normalisation; what follows is as in the stock extractor. Equal to
    torchaudio's within float32 rounding.
    """

    def __init__(
        self,
        sampling_rate: int = 16_000,
        n_fft: int = 512,
        win_length: int = 400,
        hop_length: int = 160,
        n_mels: int = 80,
        projector_window_size: int = 15,
        projector_downsample_rate: int = 5,
        padding_value: float = 0.0,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("feature_size", None)  # saved beside `melspec_kwargs`, which says the same and more
        saved = kwargs.pop("melspec_kwargs", {})
        # Past the stock constructor, which builds torchaudio's transform.
        SequenceFeatureExtractor.__init__(self, saved.get("n_mels", n_mels), sampling_rate, padding_value, **kwargs)
        sizes = {"n_fft": n_fft, "win_length": win_length, "hop_length": hop_length, "n_mels": n_mels}
        self.melspec_kwargs = {"sample_rate": sampling_rate, **sizes, **saved}
        self.projector_window_size = projector_window_size
        self.projector_downsample_rate = projector_downsample_rate

    def __call__(self, audios: Any, device: str | None = "cpu") -> BatchFeature:
        """`input_features` [B, T, 2 M]; `audio_embed_sizes`, and a mask of the projector's output made of them."""
        audio, lengths = self._get_audios_and_audio_lengths(audios)
        sizes = torch.tensor(self._get_num_audio_features(lengths))
        return BatchFeature(
            {
                "input_features": self._extract_mel_spectrograms(audio),
                "audio_embed_sizes": sizes.tolist(),
                "input_features_mask": torch.arange(int(sizes.max())) < sizes[:, None],
            }
        )

    def _extract_mel_spectrograms(self, audio: torch.Tensor, device: str | None = "cpu") -> torch.Tensor:
        """[B, samples] to [B, T, 2 M]: log10, at least 8 below the clip's maximum, / 4 + 1; two frames side by side."""
        sizes = self.melspec_kwargs
        n_fft = sizes["n_fft"]
        spectrum = torch.stft(
            audio.float(),
            n_fft,
            sizes["hop_length"],
            sizes["win_length"],
            window=torch.hann_window(sizes["win_length"]),
            pad_mode="reflect",
            return_complex=True,
        )
        filters = mel_filter_bank(
            num_frequency_bins=n_fft // 2 + 1,
            num_mel_filters=sizes["n_mels"],
            min_frequency=0.0,
            max_frequency=sizes["sample_rate"] / 2,
            sampling_rate=sizes["sample_rate"],
            norm=None,
            mel_scale="htk",
        )
        power = spectrum.real.square() + spectrum.imag.square()  # [B, N/2 + 1, frames]
        mel = power.transpose(1, 2) @ torch.from_numpy(filters).float()
        log = mel.clamp(min=1e-10).log10()
        log = torch.maximum(log, log.amax(dim=(1, 2), keepdim=True) - 8.0) / 4 + 1
        log = log[:, : log.shape[1] // 2 * 2]
        return log.reshape(len(log), -1, 2 * sizes["n_mels"])


def load_granite_processor(path: str) -> Any:
    """The processor of a Granite-Speech folder or hub name: the stock one where torchaudio is there, ours elsewhere."""
    if is_torchaudio_available():
        return AutoProcessor.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    saved, _ = GraniteSpeechProcessor.get_processor_dict(path)
    template = saved.get("chat_template") or tokenizer.chat_template
    features = GraniteSpeechFeatureExtractor.from_pretrained(path)
    return GraniteSpeechProcessor(features, tokenizer, chat_template=template)
