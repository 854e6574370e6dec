"""Which operation a call is, by the end of the path that a caller asks."""

from __future__ import annotations

from collections.abc import Mapping

_BY_END: Mapping[str, str] = {
    "%/embeddings": "embedding",
    "%:embedcontent": "embedding",
    "%:batchembedcontents": "embedding",
    "%/images/%": "image",
    "%/audio/speech": "speech",
    "%/audio/%": "transcription",
    "%/moderations": "moderation",
    "%/rerank": "rerank",
    "%/completions": "chat",
    "%/messages": "chat",
    "%/responses": "chat",
    "%:generatecontent": "chat",
    "%:streamgeneratecontent": "chat",
    "%/converse": "chat",
    "%/converse-stream": "chat",
}
"""Ends of the paths that callers ask, without what follows a `?`; the first that fits."""


def of_path(path: str) -> str:
    """SQL of the operation, `other` of an unknown path or none."""
    asked = f"lower(split_part({path}, '?', 1))"
    cases = " ".join(f"when {asked} like '{end}' then '{operation}'" for end, operation in _BY_END.items())
    return f"case {cases} else 'other' end"
