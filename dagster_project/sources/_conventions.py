"""What instrumentations call what they say of a call to a model: the conventions of traces, old and new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dagster_project.sources._who_bills import WHO_BILLS

VIEWS: Mapping[str, str] = {
    "com.anthropic.sdk": "writes to the cache by lifetime, tier, HTTP status",
    "opentelemetry.instrumentation.genai.": "every count, streamed or not",
    "opentelemetry.instrumentation.google_genai": "the same",
    "openinference.": "every count, but no response id",
    "": "any other: frameworks and gateways hand on what they were told",
    "opentelemetry.instrumentation.": "OpenLLMetry: wrong or less when streamed",
    "opentelemetry.instrumentation.openai_v2": "nothing of the cache",
}
"""Beginnings of the names of instrumentations, and why: who is before another says more of a call."""

SAID: Mapping[str, Sequence[str]] = {
    "operation_said": ("gen_ai.operation.name",),
    "request_type": ("llm.request.type",),
    "kind": ("openinference.span.kind", "traceloop.span.kind"),
    "provider_said": ("gen_ai.provider.name", "llm.provider", "gen_ai.system", "llm.system"),
    "host": ("server.address",),
    "api_base": ("gen_ai.openai.api_base",),
    "prefixed_model": ("litellm.provider.model",),
    "model_answered": ("gen_ai.response.model", "llm.response.model_name"),
    "model_asked": ("litellm.model_group", "gen_ai.request.model", "llm.request.model_name"),
    "model_named": ("llm.model_name", "embedding.model_name", "reranker.model_name"),
    "answer_id": ("gen_ai.response.id",),
    "own_id": ("litellm.call_id",),
    "tier_answered": (
        "openai.response.service_tier",
        "gen_ai.openai.response.service_tier",
        "anthropic.response.service_tier",
    ),
    "tier_asked": ("openai.request.service_tier", "gen_ai.openai.request.service_tier"),
    "error": ("error.type",),
    "http": ("http.response.status_code", "http.status_code", "error.code"),
    "streaming": ("gen_ai.request.stream", "gen_ai.is_streaming", "llm.is_streaming"),
    "first_chunk_seconds": ("gen_ai.response.time_to_first_chunk", "gen_ai.server.time_to_first_token"),
    "first_chunk_ms": ("ai.response.msToFirstChunk",),
    "cost": ("gen_ai.cost.total_cost", "gen_ai.usage.cost", "llm.cost.total"),
}
"""What is read of a call, and the attributes that say it: the first of them that is there. Cost is USD."""

COUNTED: Mapping[str, Sequence[str]] = {
    "input_total": (
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.prompt_tokens",
        "llm.usage.prompt_tokens",
        "llm.token_count.prompt",
    ),
    "output_total": (
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.completion_tokens",
        "llm.usage.completion_tokens",
        "llm.token_count.completion",
    ),
    "cache_read": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "llm.token_count.prompt_details.cache_read",
        "ai.usage.cachedInputTokens",
    ),
    "cache_write": (
        "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "llm.token_count.prompt_details.cache_write",
    ),
    "cache_write_5m": ("anthropic.usage.cache_creation.ephemeral_5m_input_tokens",),
    "cache_write_1h": ("anthropic.usage.cache_creation.ephemeral_1h_input_tokens",),
    "reasoning": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "llm.token_count.completion_details.reasoning",
        "ai.usage.reasoningTokens",
    ),
    "audio_in": ("gen_ai.usage.audio.input_tokens", "llm.token_count.prompt_details.audio"),
    "audio_read": ("gen_ai.usage.audio.cache_read.input_tokens",),
    "audio_out": ("gen_ai.usage.audio.output_tokens", "llm.token_count.completion_details.audio"),
    "image_in": ("gen_ai.usage.image.input_tokens",),
    "image_read": ("gen_ai.usage.image.cache_read.input_tokens",),
    "image_out": ("gen_ai.usage.image.output_tokens",),
}
"""Counts of tokens, and the attributes that say them, as in `SAID`."""

LABELS = ("tag.tags", "langfuse.trace.tags")
"""Lists of "key:value"."""

PARAMETERS = ("llm.invocation_parameters", "embedding.invocation_parameters")
"""JSON that may hold prompts; only its `model`, `service_tier` and `stream` are read."""

PREFIX = (
    r"(?:metadata|llm\.metadata|langsmith\.metadata|langfuse(?:\.trace|\.observation)?(?:\.metadata)?"
    r"|ai\.telemetry\.metadata|traceloop\.association\.properties|baggage|app)\."
)
"""What instrumentations and applications put before the name of a tag."""

ALIASES: Mapping[str, str] = {
    "deployment_environment_name": "environment",
    "service_version": "version",
    "user_id": "end_user",
    "enduser_id": "end_user",
    "llm_user": "end_user",
    "user_api_key_end_user_id": "end_user",
}
"""What else is a tag here."""

IDENTITY: Mapping[str, str] = {
    "session_id": "session_id",
    "gen_ai_conversation_id": "session_id",
    "user_api_key_hash": "gateway_key_id",
    "user_api_key_alias": "gateway_key_name",
    "user_api_key_team_id": "gateway_team",
    "user_api_key_team_alias": "gateway_team_name",
    "user_api_key_user_id": "gateway_user",
}
"""What is said as tags are, and has a column: the session, and whom LiteLLM authenticated."""

OPERATIONS: Mapping[str, str] = {
    "chat": "chat",
    "text_completion": "chat",
    "completion": "chat",
    "acompletion": "chat",
    "aresponses": "chat",
    "anthropic_messages": "chat",
    "generate_content": "chat",
    "embeddings": "embedding",
    "embedding": "embedding",
    "aembedding": "embedding",
    "image_generation": "image",
    "aimage_generation": "image",
    "image": "image",
    "speech": "speech",
    "aspeech": "speech",
    "transcription": "transcription",
    "atranscription": "transcription",
    "moderation": "moderation",
    "amoderation": "moderation",
    "rerank": "rerank",
    "arerank": "rerank",
}
"""Operations that reach a model: the conventions', OpenLLMetry's, and LiteLLM's call types."""

KINDS: Mapping[str, str] = {"llm": "chat", "embedding": "embedding", "reranker": "rerank"}

PARENTS = (
    "create_agent",
    "invoke_agent",
    "invoke_workflow",
    "execute_tool",
    "agent",
    "workflow",
    "chain",
    "task",
    "tool",
    "plan",
    "retrieval",
)
"""Operations of which the calls are below, in spans of their own."""

PROVIDERS: Mapping[str, str] = {
    **WHO_BILLS,
    "gcp.gemini": "google",
    "gcp.vertex_ai": "google",
    "gcp.gen_ai": "google",
    "google.generative-ai": "google",
    "google.vertex": "google",
    "aws.bedrock": "aws",
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "az.ai.openai": "azure",
    "az.ai.inference": "azure",
    "azure.chat": "azure",
    "azure-openai.chat": "azure",
    "openai.chat": "openai",
    "openai.responses": "openai",
    "anthropic.messages": "anthropic",
    "mistral_ai": "mistral",
    "ibm.watsonx.ai": "ibm",
}
"""Names of who serves, and who bills; a name that is not here bills under itself."""

HOSTS: Mapping[str, str] = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "openrouter.ai": "openrouter",
    "*.openai.azure.com": "azure",
    "*.services.ai.azure.com": "azure",
    "bedrock-runtime.*.amazonaws.com": "aws",
    "*generativelanguage.googleapis.com": "google",
    "*aiplatform.googleapis.com": "google",
    "api.mistral.ai": "mistral",
    "api.groq.com": "groq",
    "api.deepseek.com": "deepseek",
    "api.x.ai": "xai",
}
"""Who bills at a host. It is surer than the provider's name: an instrumented SDK of OpenAI says `openai`
wherever it calls."""
