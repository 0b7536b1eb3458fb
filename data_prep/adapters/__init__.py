"""The fourteen corpora, by dataset tag. `base.py` is the contract; each other file is one corpus' public layout."""

from __future__ import annotations

from data_prep.adapters.audiocaps import AudioCaps
from data_prep.adapters.base import Adapter
from data_prep.adapters.chime_home import ChimeHome
from data_prep.adapters.clotho import Clotho
from data_prep.adapters.cochlscene import CochlScene
from data_prep.adapters.iemocap import Iemocap
from data_prep.adapters.jamendo_qa import JamendoQa
from data_prep.adapters.macs import Macs
from data_prep.adapters.musicnet import MusicNet
from data_prep.adapters.musicqa import MusicQa
from data_prep.adapters.openaqa import OpenAqa
from data_prep.adapters.promptspeech import PromptSpeech
from data_prep.adapters.sounddescs import SoundDescs
from data_prep.adapters.textrolspeech import TextrolSpeech
from data_prep.adapters.wavcaps import WavCaps

_ALL: tuple[Adapter, ...] = (
    AudioCaps(),
    ChimeHome(),
    Clotho(),
    CochlScene(),
    Iemocap(),
    JamendoQa(),
    Macs(),
    MusicNet(),
    MusicQa(),
    OpenAqa(),
    PromptSpeech(),
    SoundDescs(),
    TextrolSpeech(),
    WavCaps(),
)

ADAPTERS: dict[str, Adapter] = {adapter.name: adapter for adapter in _ALL}
