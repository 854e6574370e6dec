"""Tags: what callers said about a request, in all the ways that they say it, as one map. All of it SQL.

A key is lower_snake_case and well-known keys are recognised behind their aliases and usual header
prefixes: `X-Feature-Name`, `x-prismo-feature`, `Helicone-Property-Feature` and ` Feature ` are
`feature`. Where one key is said twice the first one said stands, so the caller's order decides.
Keys and values are labels: trimmed, neither empty nor longer than 256 characters (text of a request is none).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from dagster_project.records import WELL_KNOWN_TAGS
from dagster_project.sources._sql import texts

LONGEST = 256

ALIASES: Mapping[str, str] = {
    "svc": "service",
    "service_name": "service",
    "app": "service",
    "application": "service",
    "feature_name": "feature",
    "team_name": "team",
    "project_name": "project",
    "env": "environment",
    "deployment_environment": "environment",
    "cust": "customer",
    "customer_id": "customer",
    "customer_name": "customer",
    "tenant": "customer",
    "tenant_id": "customer",
    "tenant_name": "customer",
    "experiment_id": "experiment",
    "experiment_name": "experiment",
    "variant_id": "variant",
    "variant_name": "variant",
    "tier": "user_tier",
    "app_version": "version",
    **{key: key for key in WELL_KNOWN_TAGS},
}
"""Keys and the well-known keys that they mean everywhere; an entry's `tag_aliases` come first."""

_ORIGIN = "^((resource_?tags?|iam_?principal|cost_?category|account_?tags?)[/_])?"
_PREFIXES = "^(x_prismo|x_majordomo|majordomo|helicone_property|x)_"


def labels(said: str) -> str:
    """Pairs of the JSON value `said`: a list of "key:value" texts, or one such text, or an object.

    A label without a colon is a key whose value is `true`. What LiteLLM adds by itself
    ("User-Agent: ...") is nobody's claim.
    """

    one_line = f"""string_split(from_json({said}, '"VARCHAR"'), ',')"""
    texts = f"""from_json({said}, '["VARCHAR"]')"""
    return f"""case json_type({said})
  when 'ARRAY' then {_split(texts)}
  when 'VARCHAR' then {_split(one_line)}
  else {members(said)} end"""


def members(said: str, ignored: Sequence[str] = ()) -> str:
    """Pairs of the JSON object `said` but for the keys in `ignored`; its lists and objects are no labels."""
    return _pairs(said, lambda key: f"{key} not in ({texts(['', *ignored])})")


def headers(said: str, aliases: Mapping[str, str]) -> str:
    """Pairs of the JSON object `said` of `x-...` headers: only what means a well-known key, because any other
    header may be a secret.
    """
    claims = (
        f"list_filter({_snake_keys(members(said))}, lambda pair: {_known('pair.key', aliases)} is not null)"
    )
    # Each request has a dozen `x-stainless-...` and some `x-litellm-...`; few have another.
    another = '"x-([^sl]|s[^t]|st[^a]|sta[^i]|l[^i]|li[^t])'
    return f"case when regexp_matches({said}, '{another}', 'i') then {claims} end"


def allocated(said: str) -> str:
    """Pairs of the JSON object `said` of a cloud's cost allocation tags, without what a key says of where it
    comes from: `user:team`, `resource_tags_user_team`, `iamPrincipal/team`, `costCategory/team`. The cloud's
    own (`aws:createdBy`) are nobody's claim.
    """
    wanted = _pairs(said, lambda key: f"not regexp_matches({key}, '{_ORIGIN}aws[:_]', 'i')")
    # A map has no order, and the same tag may be of several origins: of a resource before of who called.
    ranked = f"""list_sort(list_transform({wanted}, lambda pair: {{
    'is_of_the_caller': regexp_matches(pair.key, '^iam', 'i'), 'key': pair.key, 'value': pair.value}}))"""
    return f"""list_transform({ranked}, lambda pair: {{
    'key': regexp_replace(pair.key, '{_ORIGIN}(user[:_])?', '', 'i'), 'value': pair.value}})"""


def tagged(rows: str, parts: Sequence[str], aliases: Mapping[str, str]) -> str:
    """The query `rows` with one column more, `tags`: the pairs of `parts`, earlier parts first."""
    canonical = f"""list_transform({_snake_keys(f"list_concat({', '.join(parts)})")}, lambda pair: {{
    'key': coalesce({_known("pair.key", aliases)}, pair.key), 'value': trim(pair.value)}})"""
    return f"""select * exclude (tag_pairs, tag_keys),
  map_from_entries(list_filter(tag_pairs, lambda pair, i: list_position(tag_keys, pair.key) = i)) as tags
from (
  select *, list_transform(tag_pairs, lambda pair: pair.key) as tag_keys
  from (
    select *, coalesce(list_filter({canonical}, lambda pair: pair.key <> '' and pair.value <> ''
      and greatest(length(pair.key), length(pair.value)) <= {LONGEST}), []) as tag_pairs
    from ({rows})
  )
)"""


def canonical_key(key: str) -> str:
    """`key` in lower_snake_case, as `_snake` does it in SQL."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", key)
    return re.sub(r"[\W_]+", "_", words).strip("_").lower()


def key_in_records(key: str) -> str:
    """The key under which records have a tag that was said as `key`: as in `tagged`, without `aliases`."""
    snake = canonical_key(key)
    return ALIASES.get(snake) or ALIASES.get(re.sub(_PREFIXES, "", snake), snake)


def _split(texts: str) -> str:
    said = f"""list_filter({texts},
    lambda said: left(said, 1) not in ('{{', '[') and not starts_with(lower(said), 'user-agent:'))"""
    return f"""list_transform({said}, lambda said: {{
    'key': split_part(said, ':', 1),
    'value': case when contains(said, ':') then substr(said, instr(said, ':') + 1) else 'true' end}})"""


def _pairs(said: str, wanted: Callable[[str], str]) -> str:
    # Making a map of an object costs ten times what listing its keys does, and few have a wanted one.
    found = f"len(list_filter(json_keys({said}), lambda key: {wanted('key')}))"
    # No map is made of an object that has a key twice: of such the first of each is taken.
    pointer = "'/' || replace(replace(key, '~', '~0'), '/', '~1')"
    one_by_one = f"""list_transform(list_distinct(json_keys({said})), lambda key: {{
      'key': key, 'value': {said} ->> ({pointer})}})"""
    return f"""case when {found} > 0 then list_filter(
    case when len(json_keys({said})) = len(list_distinct(json_keys({said})))
      then map_entries(from_json({said}, '"MAP(VARCHAR, VARCHAR)"')) else {one_by_one} end,
    lambda pair: left(pair.value, 1) not in ('{{', '[') and {wanted("pair.key")}) end"""


def _snake_keys(pairs: str) -> str:
    return f"""list_transform({pairs}, lambda pair: {{
    'key': {_snake("pair.key")}, 'value': pair.value}})"""


def _snake(key: str) -> str:
    # Most keys are already as they should be, and two regular expressions per tag are the dearest part.
    words = f"regexp_replace({key}, '([a-z0-9])([A-Z])', '\\1_\\2', 'g')"
    other = f"lower(trim(regexp_replace({words}, '[^\\pL\\pN]+', '_', 'g'), '_'))"
    return f"case when regexp_full_match({key}, '[a-z0-9]+(_[a-z0-9]+)*') then {key} else {other} end"


def _known(key: str, aliases: Mapping[str, str]) -> str:
    """The well-known key that the snake_case `key` means, else null."""
    table = ALIASES | {canonical_key(said): canonical_key(meant) for said, meant in aliases.items()}
    known = f"map([{texts(table)}], [{texts(table.values())}])"
    bare = f"case when {key}[1] in ('x', 'm', 'h') then regexp_replace({key}, '{_PREFIXES}', '') end"
    return f"coalesce({known}[{key}], {known}[{bare}])"
