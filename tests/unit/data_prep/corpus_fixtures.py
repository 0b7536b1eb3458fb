"""All fourteen tiny corpora by name."""

from __future__ import annotations

import corpora_large
import corpora_scenes
import corpora_voices

BUILDERS = dict(sorted({**corpora_scenes.BUILDERS, **corpora_large.BUILDERS, **corpora_voices.BUILDERS}.items()))
