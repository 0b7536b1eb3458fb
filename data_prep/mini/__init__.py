"""mini-14: fourteen miniature corpora on disk in the public layouts of the real ones, rendered from explicit latents.

    generate(Path("mini"))                     # mini-14
    generate(Path("base"), alignment=True)     # the collection a small model is pretrained on

Every clip is drawn as a latent (events with times and levels in a place; instruments, tempo, mode, register; speaker,
text, pitch, speed, energy, emotion), rendered from it, and described from it by its corpus' own grammar. So answers can
be learnt from the audio; what cannot is the label noise below. Nothing is recorded, nothing is downloaded. The numbers
are fixed: a schedule is judged on this benchmark, the benchmark is never tuned to a schedule. Change one and raise
`generate.VERSION`.

Corpora at scale 1 (clips on disk; official splits where the real corpus has them):

    corpus         clips  splits                   seconds   noise  answers
    audiocaps        396  300 / 40 / 56            1.8-2.8    3 %   captions, order and simultaneity in words
    chime_home       108  62 dev + 46 eval         4.0       12 %   sets of 7 source classes; raw-only chunks 36 %
    clotho           239  165 / 30 / 44            2.2-3.3    5 %   five long captions with distance and place
    cochlscene       481  364 / 52 / 65            1.4        2 %   13 scenes
    iemocap          360  5 sessions               0.9-2.4   12 %   emotion, gender
    jamendo_qa        76  none                     4.0-6.5    8 %   eight short answers a track, yes/no among them
    macs             110  none, by location        2.1-2.7    2-45 % of an annotator's sentences and tags
    musicnet          34  24 / 10 pieces           10-30      4 %   of notes: instruments, ensemble, composer
    musicqa          296  140 + 100 / 56           1.8-2.6   10 %   full sentences, five a clip
    openaqa          620  train only               1.1-3.3    6 %   labels, yes/no, order, counts, open questions
    promptspeech     366  310 / 56                 1-4        5 %   gender, pitch, speed, energy, style prompt
    sounddescs       206  140 / 26 / 40            1.4-2.6    2 %   archive notes, category
    textrolspeech    414  about 370 / 44           1-4        8 %   the same attributes, emotion, style prompt
    wavcaps         1060  none                     1.0-3.3   15 %   short captions that leave details out

Noise is the chance that one event, label, note or attribute of one annotation is wrong (or, for an event, not noticed).
Signal-to-noise ratios differ too: CHiME-Home 2-14 dB, scenes 2-14 dB, YouTube 12-24, Freesound 8-26 (Clotho's part
16-30), BBC 20-32, SoundBible 24-36.

Shared sources, by the same ids and the same samples as in life:

- YouTube: AudioCaps; OpenAQA holds 190 of its training and 20 of its validation clips; WavCaps-AudioSet holds 55 of its
  training clips, 4 + 4 held-out ones (which the black-lists name), and 120 clips of OpenAQA's AudioSet part.
- Freesound: Clotho; WavCaps-FreeSound holds 89 % of its development clips and 4 + 4 held-out ones (black-listed);
  OpenAQA holds 50 of its development clips and 60 others that WavCaps holds too.
- BBC: SoundDescs; WavCaps-BBC holds 120 of its training clips and 4 + 4 held-out ones.
- LibriTTS: PromptSpeech; TextrolSpeech holds 120 of its training clips, and other clips of the same 64 speakers.
- Jamendo: 12 of MusicQA's evaluation clips are excerpts of Jamendo-QA tracks under other names.

Conflicts, so that affinity is not simply the domain: one recording is described in up to three conventions (WavCaps
leaves out what AudioCaps tells, OpenAQA wants AudioSet's labels); PromptSpeech calls a pitch high within the speaker's
gender, TextrolSpeech in Hz; fast music begins at 110 BPM in MusicQA and at 130 in Jamendo-QA, fast speech at 220 and at
212 words a minute; IEMOCAP hears emotion where PromptSpeech hears energy and speed; a park is a scene for CochlScene
and the place of a caption for MACS.

Departures from the real files: clips are shorter and mostly 16 kHz (MusicNet's label times stay in samples at 44.1 kHz;
a fifth of MusicQA's first part is 22.05 kHz; MACS is stereo, 16 bit); only a few CHiME-Home chunks have their 48 kHz
stereo copy; IEMOCAP has no whole-dialogue audio and no video.
"""

from data_prep.mini.generate import generate, lay_out

__all__ = ["generate", "lay_out"]
