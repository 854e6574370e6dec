"""What gateways call those who serve, and who bills for it."""

from __future__ import annotations

from collections.abc import Mapping

WHO_BILLS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "gemini",
            "google-ai-studio",
            "google_ai_studio",
            "google-vertex",
            "google-vertex-ai",
            "vertex",
            "vertex-ai",
            "vertex_ai",
            "vertexai",
        ),
        "google",
    ),
    **dict.fromkeys(("amazon-bedrock", "aws-bedrock", "aws_bedrock", "bedrock", "sagemaker"), "aws"),
    **dict.fromkeys(("azure-ai", "azure-openai", "azure_openai"), "azure"),
    **dict.fromkeys(("mistral-ai", "mistralai"), "mistral"),
    **dict.fromkeys(("together", "together-ai", "together.ai", "togetherai"), "together_ai"),
    **dict.fromkeys(("fireworks", "fireworks-ai"), "fireworks_ai"),
    **dict.fromkeys(("grok", "x-ai", "x_ai"), "xai"),
    "perplexity-ai": "perplexity",
    "workers-ai": "cloudflare",
}
"""By the gateway's name in lower case; a name that is not here bills under itself."""

KNOWN = frozenset(
    {
        *WHO_BILLS,
        *WHO_BILLS.values(),
        *("anthropic", "cerebras", "cohere", "deepseek", "groq", "openai", "openrouter"),
    }
)
"""Names that mean somebody wherever they stand."""
